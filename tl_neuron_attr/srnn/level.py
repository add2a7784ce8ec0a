"""One level: a recurrence shared by all its slices, run by the fastest engine for their number."""

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from tl_neuron_attr.srnn.cells import Recurrence
from tl_neuron_attr.srnn.equations import EQUATIONS
from tl_neuron_attr.srnn.fused import last_states
from tl_neuron_attr.srnn.slicing import padding_mask

Engine = Literal["auto", "library", "chunked", "fused"]
"""How a level runs. ``"library"`` calls the cell once. ``"chunked"`` calls it once per 512 slices, so that the numbers
in use stay in the processor's cache (once in all if there is an initial state). ``"fused"`` runs
:mod:`tl_neuron_attr.srnn.fused`. ``"auto"`` chooses."""

Initial = Tensor | tuple[Tensor, Tensor]
"""A state as the cell takes it: a tensor, or ``(h, c)`` for an LSTM."""

_CHUNK = 512
"""Slices per call: the four gates of 512 slices of 50 features take 400 KB, which a second-level cache holds."""

_CHUNKED_FROM = 1024
"""Slices from which chunks are used: two calls of a full chunk; below that the second call costs more than it saves."""

_FUSED_FORWARD_FROM = 64
"""Slices from which the fused level is used without gradients: torch's own kernel is faster on fewer rows."""


class Level(nn.Module):
    """The recurrence of one level; all its slices are rows of one batch (paper 4, Eq. 15).

    A forward hook on a level sees its slices and their last states, whatever the engine.

    Args:
        cell: The recurrence, called like a ``torch.nn.GRU`` with ``batch_first=True``.
        bidirectional: Whether ``cell`` also reads backwards.
        engine: How it runs.
    """

    def __init__(self, cell: nn.Module, *, bidirectional: bool = False, engine: Engine = "auto") -> None:
        super().__init__()
        self.cell = cell
        self.bidirectional = bidirectional
        self.engine = engine

    @property
    def engine(self) -> Engine:
        """Return how the level runs.

        Raises:
            ValueError: If it is set to an unknown engine, or to ``"fused"`` for a cell that has no fused level.
        """
        return self._engine

    @engine.setter
    def engine(self, engine: Engine) -> None:
        if engine not in get_args(Engine):
            raise ValueError(f"engine must be one of {', '.join(map(repr, get_args(Engine)))}, got {engine!r}")
        if engine == "fused" and not self.has_fused:
            cells = ", ".join(cell.__name__ for cell in EQUATIONS)
            raise ValueError(f"engine='fused' is for one layer and direction of {cells}, the cell is {self.cell}")
        self._engine: Engine = engine

    @property
    def has_fused(self) -> bool:
        """Return whether the cell has a fused level: it has one layer, one direction, and a type with equations."""
        return type(self.cell) in EQUATIONS and bool(self.cell.num_layers == 1) and not self.bidirectional

    def forward(
        self,
        slices: Float[Tensor, "row step input"],
        h_0: Initial | None = None,
        steps: Int[Tensor, "row"] | None = None,
    ) -> Float[Tensor, "row output"]:
        """Return the state of each slice after its last step, or the last states of both directions side by side.

        Args:
            slices: The slices of all sequences.
            h_0: The states before the first step; zero by default.
            steps: The number of steps in each slice, if some are shorter. The state of a slice without steps is finite
                and has no meaning.
        """
        engine = self._chosen(slices, h_0)
        if engine == "fused":
            mask = None if steps is None else padding_mask(steps, slices.shape[1])
            return last_states(self.cell, slices, h_0[0] if isinstance(h_0, Tensor) else None, mask)
        if engine == "chunked":
            chunks = slices.split(_CHUNK)
            some = [None] * len(chunks) if steps is None else steps.split(_CHUNK)
            return torch.cat([self._run(chunk, None, s) for chunk, s in zip(chunks, some, strict=True)])
        return self._run(slices, h_0, steps)

    def _chosen(self, slices: Tensor, h_0: Initial | None) -> Engine:
        if self.engine == "chunked":
            return "chunked" if h_0 is None else "library"
        if self.engine != "auto":
            return self.engine
        if slices.device.type != "cpu" or _traced():
            return "library"
        if self.has_fused and _plain(slices) and (torch.is_grad_enabled() or len(slices) >= _FUSED_FORWARD_FROM):
            return "fused"
        return "chunked" if h_0 is None and len(slices) >= _CHUNKED_FROM else "library"

    def _run(self, slices: Tensor, h_0: Initial | None, steps: Tensor | None) -> Tensor:
        if steps is None:
            return self._last(self.cell(slices, h_0)[1])
        if isinstance(self.cell, Recurrence):
            return self._last(self.cell(slices, h_0, steps=steps)[1])
        if self.bidirectional:
            return self._last(self.cell(self._packed(slices, steps), h_0)[1])
        output: Tensor = self.cell(slices, h_0)[0]
        at = (steps - 1).clamp(min=0)[:, None, None].expand(-1, 1, output.shape[2])
        return output.gather(1, at)[:, 0]

    def _packed(self, slices: Tensor, steps: Tensor) -> Any:
        if not isinstance(self.cell, nn.RNNBase):
            raise ValueError(
                f"slices of different lengths with bidirectional=True need a cell that takes a PackedSequence, "
                f"got {type(self.cell).__name__}: give sequences that fill their slices"
            )
        lengths = steps.clamp(min=1).cpu()
        return pack_padded_sequence(slices, lengths, batch_first=True, enforce_sorted=False)

    def _last(self, final: Initial) -> Tensor:
        h = final[0] if isinstance(final, tuple) else final
        return torch.cat([h[-2], h[-1]], dim=-1) if self.bidirectional else h[-1]


def _traced() -> bool:
    """Return whether torch.compile, torch.export or torch.jit.trace is recording a graph."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]


def _plain(slices: Tensor) -> bool:
    """Return whether the fused level is exact for these slices: full precision, and autocast is off."""
    return slices.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
