"""Where a stream is looked at: positions of prompts, one each or many."""

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Places:
    """Place ``i`` is position ``pos[i]`` of prompt ``row[i]``.

    Scores look at one place a prompt; query neurons at every place that a value neuron reads. What is read at places
    has them as its first dimension, called ``batch`` in shapes.

    Attributes:
        row: The prompt.
        pos: The position, counted from the start.
    """

    row: Int[Tensor, "batch"]
    pos: Int[Tensor, "batch"]

    def select(self, rows: Int[Tensor, "n"]) -> "Places":
        """The given places."""
        return Places(self.row[rows], self.pos[rows])

    def __len__(self) -> int:
        return len(self.row)
