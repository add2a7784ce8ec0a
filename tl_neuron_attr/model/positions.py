"""Where a stream is looked at: positions of prompts, one or many for each."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from tl_neuron_attr.results.plural import plural

Pos = int | Sequence[int] | Int[Tensor, "batch"]
"""A position, negative ones counted from the end, or one for each prompt."""


@dataclass(frozen=True)
class Positions:
    """Places of a batch of prompts: place ``i`` is position ``pos[i]`` of prompt ``row[i]``.

    Scores look at one place of each prompt; query neurons at every place that a value neuron reads. What is read at
    places has them as its first dimension.

    Examples:
        >>> places = Positions(torch.tensor([0, 1]), from_start(torch.tensor([-1, 2]), batch=2, length=7))
        >>> places.select(torch.tensor([0])).pos.tolist()  # of the first prompt, the last of its seven tokens
        [6]

    Attributes:
        row: The prompt.
        pos: The position, counted from the start.
    """

    row: Int[Tensor, "batch"]
    pos: Int[Tensor, "batch"]

    def select(self, rows: Int[Tensor, "n"]) -> "Positions":
        """Return the given places."""
        return Positions(self.row[rows], self.pos[rows])

    def __len__(self) -> int:
        return len(self.row)


def from_start(pos: Pos, batch: int, length: int) -> Int[Tensor, "n"]:
    """Return ``pos``, one position or one for each of ``batch`` prompts, counted from the start.

    Raises:
        IndexError: If a position lies outside the prompts.
        ValueError: If ``pos`` is not of integers, or not one for all prompts or one for each.

    Examples:
        >>> from_start(torch.tensor([-1, 2]), batch=2, length=7).tolist()
        [6, 2]
    """
    values = torch.as_tensor(pos)
    whole = not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)
    if not whole or values.ndim > 1 or values.numel() not in (1, batch):
        raise ValueError(f"pos must be an int or one int per prompt, of {plural(batch, 'prompt')}, got {pos!r}")
    if bool(((values < -length) | (values >= length)).any()):
        raise IndexError(f"pos must lie between {-length} and {length - 1} for prompts of {length} tokens, got {pos!r}")
    return values.long().reshape(-1) % length
