"""A cache that holds attention patterns at one position of each prompt: what scores there need, and no more."""

from typing import Any

from jaxtyping import Int
from torch import Tensor
from transformer_lens import ActivationCache


class PositionCache(ActivationCache):
    """A cache whose patterns have one row per head, that of the position scored.

    Patterns are the one thing in a cache that grows with the square of a prompt's length.

    Attributes:
        pattern_pos: The position of each prompt, counted from the start.
    """

    pattern_pos: Int[Tensor, "batch"]

    def __init__(self, activations: dict[str, Tensor], model: Any, pattern_pos: Int[Tensor, "batch"]) -> None:
        super().__init__(activations, model)
        self.pattern_pos = pattern_pos

    def holds(self) -> str:
        """Return what an error says of a cache that is asked for more.

        Examples:
            >>> import tl_neuron_attr as tna
            >>> tna.run(tna.demo.load(), "Tim Duncan plays the sport of").holds()
            'this cache of tna.run holds attention patterns at position [6] only'
        """
        return f"this cache of tna.run holds attention patterns at position {self.pattern_pos.tolist()} only"
