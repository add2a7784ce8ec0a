"""Which prompts a model knows well enough to be studied (paper 1, section 4.1)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.evaluate.prompts import StudyPrompt
from tl_neuron_attr.model.answer_tokens import Answer, require_room
from tl_neuron_attr.model.batches import answer_batches
from tl_neuron_attr.model.tokens import prompt_ids
from tl_neuron_attr.results.rows import unwritable
from tl_neuron_attr.results.token_text import encodable

KEPT = "kept"
TOP = 10
"""The target must be among this many likeliest tokens (paper 1, section 4.1)."""


@dataclass(frozen=True)
class AskedPrompt:
    """A prompt of a study as token ids.

    Attributes:
        prompt: The prompt's.
        answer: Those of its target, one or several.
    """

    prompt: Int[Tensor, "pos"]
    answer: tuple[int, ...]

    @property
    def target(self) -> Int[Tensor, "token"]:
        """The answer as a tensor, where the prompt is."""
        return torch.tensor(self.answer, device=self.prompt.device)

    @property
    def tokens(self) -> Int[Tensor, "pos"]:
        """Prompt and answer, but for the answer's last token, which is only predicted."""
        return torch.cat([self.prompt, self.target[:-1]])


@typechecked
@torch.no_grad()
def select(model: Any, prompts: Sequence[StudyPrompt], *, batch_size: int = 32) -> pd.DataFrame:
    """Apply the selection rule of paper 1, section 4.1, and say why each other prompt is left out.

    A prompt is kept if its target is among the model's ten likeliest tokens, and likelier than every other target of
    its type. Of a target of several tokens, each must be among the ten likeliest behind those before it, and likelier
    than another target's where the two part; targets of which one begins with the other never do.

    Returns:
        One row per prompt: ``prompt``, ``target``, ``type``, ``target_id`` (the first token of the target, -1 if it
        can't be read), ``target_tokens`` (how many there are), ``status``: ``"kept"`` or why not. Half characters (lone
        surrogates) are shown by their escape.
    """
    read = [asked_prompt(model, p) for p in prompts]
    asked = {i: one for i, one in enumerate(read) if isinstance(one, AskedPrompt)}
    status = [one if isinstance(one, str) else "" for one in read]
    targets: dict[str, set[tuple[int, ...]]] = {}
    for i, one in asked.items():
        targets.setdefault(prompts[i].type, set()).add(one.answer)
    places, tokens = list(asked), [one.prompt for one in asked.values()]
    for batch in answer_batches(tokens, [one.answer for one in asked.values()], batch_size=batch_size):
        logits = batch.predicting(model(batch.tokens))
        for i, row in zip((places[at] for at in batch.indices), logits, strict=True):
            status[i] = selection_status(row, asked[i].answer, targets[prompts[i].type])
    answers = [one.answer if isinstance(one, AskedPrompt) else () for one in read]
    rows: list[Mapping[str, Any]] = [
        {
            **{name: encodable(text) for name, text in asdict(prompt).items()},
            "target_id": answer[0] if answer else -1,
            "target_tokens": len(answer),
            "status": found,
        }
        for prompt, answer, found in zip(prompts, answers, status, strict=True)
    ]
    return pd.DataFrame(rows)


def asked_prompt(model: Any, prompt: StudyPrompt) -> AskedPrompt | str:
    """Return a prompt and its target as token ids, or why they can't be run."""
    for text in (prompt.prompt, prompt.target):
        if problem := unwritable(text):
            return problem
    try:
        ids = prompt_ids(model, prompt.prompt)
    except ValueError as error:
        return str(error)
    try:
        answer = Answer.of(model, prompt.target, "target")
    except ValueError:
        return "the target is empty or not in the model's vocabulary"
    try:
        require_room(model, len(ids), answer)
    except ValueError as error:
        return str(error)
    return AskedPrompt(ids, answer.tokens)


def selection_status(
    logits: Float[Tensor, "token d_vocab"], answer: tuple[int, ...], targets: Collection[tuple[int, ...]]
) -> str:
    """Return ``"kept"``, or why the selection rule of paper 1, section 4.1, leaves a prompt out.

    Args:
        logits: What predicts each token of the answer.
        answer: The answer.
        targets: The targets of the prompt's type, its own among them.
    """
    own = logits.gather(1, torch.tensor(answer, device=logits.device)[:, None])
    if bool(((logits > own).sum(1) >= TOP).any()):
        return f"the target is not among the {TOP} likeliest tokens"
    for rival in targets:
        parting = [i for i, (a, b) in enumerate(zip(answer, rival, strict=False)) if a != b][:1]
        if any(bool(logits[i, rival[i]] >= own[i]) for i in parting):
            return "another target of its type is likelier"
    return KEPT
