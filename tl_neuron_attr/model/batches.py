"""Prompts in batches of one length: nothing is padded, so no result depends on what shares a batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tl_neuron_attr.model.tokens import prompt_ids


@dataclass(frozen=True)
class Batch:
    """Some prompts of equal length.

    Attributes:
        indices: Which prompts, by their place in the list given.
        tokens: Their token ids.
    """

    indices: list[int]
    tokens: Int[Tensor, "batch pos"]


def batches(model: Any, prompts: Sequence[str], *, batch_size: int) -> Iterator[Batch]:
    """Yield the prompts, tokenised by :func:`~tl_neuron_attr.model.tokens.prompt_ids`, shortest first.

    Raises:
        ValueError: If there is no prompt, or one is empty.
    """
    if not prompts:
        raise ValueError("prompts is empty: give at least one")
    if "" in prompts:
        raise ValueError(f"prompts[{list(prompts).index('')}] is empty")
    yield from of_tokens([prompt_ids(model, prompt) for prompt in prompts], batch_size=batch_size)


def of_tokens(tokens: Sequence[Int[Tensor, "_"]], *, batch_size: int) -> Iterator[Batch]:
    """Yield tokenised prompts, shortest first."""
    for length in sorted({len(ids) for ids in tokens}):
        same = [i for i, ids in enumerate(tokens) if len(ids) == length]
        for start in range(0, len(same), batch_size):
            chosen = same[start : start + batch_size]
            yield Batch(chosen, torch.stack([tokens[i] for i in chosen]))
