"""Prompts as a study's items: target tokens known once, then batches of one shape, none larger than memory wants."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.evaluate.prompts import StudyPrompt
from tl_neuron_attr.evaluate.select import AskedPrompt, asked_prompt
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.answer_tokens import Answer
from tl_neuron_attr.model.batches import AnswerBatch, answer_batches
from tl_neuron_attr.results.token_text import encodable
from tl_neuron_attr.sweep.shard_task import Items

_COLUMNS = ["prompt", "target", "type", "ids", "target_ids", "target_id", "target_tokens", "problem"]

_LOGIT_BYTES = 1 << 28
"""256 MiB: at 262,144 tokens the logits of sixteen prompts of sixteen tokens, the largest tensor of a run."""


@dataclass(frozen=True)
class PromptBatch(AnswerBatch):
    """Some prompts of one length with answers of one length; ``indices`` are their numbers in the study.

    Attributes:
        types: Their types of knowledge.
    """

    types: list[str]

    @property
    def answers(self) -> Int[Tensor, "batch"] | list[Answer]:
        """What is followed, as functions that run the model themselves take it: tokens, or answers of several."""
        if self.target.shape[1] == 1:
            return self.target[:, 0]
        return [Answer(tuple(ids)) for ids in self.target.tolist()]

    def row(self, i: int) -> dict[str, Any]:
        """Return what names a prompt in a study's rows."""
        return {"item": self.indices[i], "type": self.types[i], **_named(self.target[i].tolist())}


def _named(answer: Sequence[int]) -> dict[str, int]:
    """Return what a study's rows say of an answer: its first token, -1 if there is none, and how many there are."""
    return {"target_id": answer[0] if len(answer) else -1, "target_tokens": len(answer)}


@typechecked
def prompt_items(prompts: Sequence[StudyPrompt]) -> Items:
    """Return prompts as what a study is about.

    Its rows are ``prompt``, ``target``, ``type``, ``ids`` (the prompt's tokens), ``target_ids`` (the target's; none if
    a prompt can't be run), ``target_id`` (the first of them, or -1), ``target_tokens`` (how many) and ``problem`` (why
    it can't be run).
    """
    asked = tuple(prompts)
    return Items(fingerprint_of_texts(text for p in asked for text in astuple(p)), lambda model: _rows(model, asked))


def fingerprint_of_texts(texts: Iterable[str]) -> str:
    """Return a hash of texts in order, half characters included."""
    found = hashlib.sha256()
    for text in texts:
        found.update(f"{text!r};".encode())
    return found.hexdigest()[:32]


def _rows(model: Any, prompts: Iterable[StudyPrompt]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for prompt in prompts:
        asked = asked_prompt(model, prompt)
        texts = {name: encodable(text) for name, text in asdict(prompt).items()}
        ids, answer = (asked.prompt.tolist(), list(asked.answer)) if isinstance(asked, AskedPrompt) else ([], [])
        problem = asked if isinstance(asked, str) else ""
        rows.append({**texts, "ids": ids, "target_ids": answer, **_named(answer), "problem": problem})
    return pd.DataFrame(rows, columns=_COLUMNS)


def prompt_batches(model: Any, items: pd.DataFrame, *, batch_size: int) -> Iterator[PromptBatch]:
    """Yield the items that can be run, shortest prompts first, then shortest answers.

    Batches depend on the items alone, never on what was run before, so that a shard is the same bytes each time.
    """
    run = items[items["target_tokens"] > 0]
    device = dimensions.device_of(model)
    shapes = [(len(ids), len(answer)) for ids, answer in zip(run["ids"], run["target_ids"], strict=True)]
    for shape in sorted(set(shapes)):
        same = run.iloc[[i for i, each in enumerate(shapes) if each == shape]]
        each = (sum(shape) - 1) * dimensions.d_vocab(model) * 4
        size = max(1, min(batch_size, _LOGIT_BYTES // each))
        prompts = [torch.tensor(ids, device=device) for ids in same["ids"]]
        answers = [[int(token) for token in ids] for ids in same["target_ids"]]
        for batch in answer_batches(prompts, answers, batch_size=size):
            chosen = same.iloc[batch.indices]
            items_of_batch = [int(i) for i in chosen.index]
            yield PromptBatch(items_of_batch, batch.tokens, batch.target, [str(kind) for kind in chosen["type"]])
