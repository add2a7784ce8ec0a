"""Prompts as a study's items: target tokens known once, then batches of one length, none larger than memory wants."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from tl_neuron_attr.evaluate.prompts import StudyPrompt, asked_ids
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.batches import of_tokens
from tl_neuron_attr.results.token_text import encodable
from tl_neuron_attr.sweep.shard_task import Items

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


def prompt_items(prompts: Sequence[StudyPrompt]) -> Items:
    """Return prompts as what a study is about.

    Its rows are ``prompt``, ``target``, ``type``, ``ids`` (the prompt's tokens), ``target_id`` (-1 if a prompt can't be
    run) and ``problem`` (why not).
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
        target, tokens, problem = asked_ids(model, prompt)
        texts = {name: encodable(text) for name, text in asdict(prompt).items()}
        ids = [] if target is None or tokens is None else tokens.tolist()
        rows.append({**texts, "ids": ids, "target_id": target if ids else -1, "problem": problem})
    return pd.DataFrame(rows, columns=["prompt", "target", "type", "ids", "target_id", "problem"])


def prompt_batches(model: Any, items: pd.DataFrame, *, batch_size: int) -> Iterator[PromptBatch]:
    """Yield the items that can be run, shortest first.

    Batches depend on the items alone, never on what was run before, so that a shard is the same bytes each time.
    """
    run = items[items["target_id"] >= 0]
    device = dimensions.device_of(model)
    tokens = [torch.tensor(ids, device=device) for ids in run["ids"]]
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
