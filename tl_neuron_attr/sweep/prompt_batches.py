"""Prompts as a study's items: target tokens known once, then batches of one length, none larger than memory wants."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from tl_neuron_attr.evaluate.prompts import StudyPrompt, asked_ids
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.batches import of_tokens
from tl_neuron_attr.model.tokens import prompt_ids
from tl_neuron_attr.results.token_text import encodable

_LOGIT_BYTES = 1 << 28
"""256 MiB: at 262,144 tokens the logits of sixteen prompts of sixteen tokens, the largest tensor of a run."""


@dataclass(frozen=True)
class PromptBatch:
    """Some prompts of one length.

    Attributes:
        items: Their numbers in the study.
        types: Their types of knowledge.
        tokens: Their token ids.
        target: The token that answers each.
    """

    items: list[int]
    types: list[str]
    tokens: Int[Tensor, "batch pos"]
    target: Int[Tensor, "batch"]

    def row(self, i: int) -> dict[str, Any]:
        """Return what names a prompt in a study's rows."""
        return {"item": self.items[i], "type": self.types[i], "target_id": int(self.target[i])}


def prompt_items(model: Any, prompts: Sequence[StudyPrompt]) -> pd.DataFrame:
    """Return prompts as items: ``prompt``, ``target``, ``type``, ``target_id``, ``problem`` (why one can't be run)."""
    rows: list[dict[str, Any]] = []
    for prompt in prompts:
        target, tokens, problem = asked_ids(model, prompt)
        known = -1 if target is None or tokens is None else target
        texts = {name: encodable(text) for name, text in asdict(prompt).items()}
        rows.append({**texts, "target_id": known, "problem": problem})
    return pd.DataFrame(rows, columns=["prompt", "target", "type", "target_id", "problem"])


def prompt_batches(model: Any, items: pd.DataFrame, *, batch_size: int) -> Iterator[PromptBatch]:
    """Yield the items that can be run, shortest first.

    Batches depend on the items alone, never on what was run before, so that a shard is the same bytes each time.
    """
    run = items[items["target_id"] >= 0]
    tokens = [prompt_ids(model, prompt) for prompt in run["prompt"]]
    device = dimensions.device_of(model)
    for length in sorted({len(ids) for ids in tokens}):
        same = [i for i, ids in enumerate(tokens) if len(ids) == length]
        each = length * dimensions.d_vocab(model) * 4
        size = max(1, min(batch_size, _LOGIT_BYTES // each))
        for batch in of_tokens([tokens[i] for i in same], batch_size=size):
            chosen = run.iloc[[same[at] for at in batch.indices]]
            yield PromptBatch(
                [int(i) for i in chosen.index],
                [str(kind) for kind in chosen["type"]],
                batch.tokens,
                torch.tensor(chosen["target_id"].tolist(), device=device),
            )
