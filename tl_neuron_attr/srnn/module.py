"""The sliced recurrent network as a PyTorch module (paper 4, section 3)."""

import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from tl_neuron_attr.srnn.cells import CellName, Factory, factory
from tl_neuron_attr.srnn.inputs import require_batch, require_divisible, require_lengths, require_place, require_state
from tl_neuron_attr.srnn.level import Engine, Initial, Level
from tl_neuron_attr.srnn.slicing import Slicing, as_factors, beyond, fold, require_integer
from tl_neuron_attr.srnn.suggest import suggest

Batch = Float[Tensor, "batch step feature"]

Padding = Literal["none", "left", "right"]
"""Where zeros go if T steps do not fill the slices: nowhere, which refuses such a T; before the sequence; after it."""


class SRNN(nn.Module):
    """A recurrent network that reads slices of a sequence side by side, then their last states, and so on k times.

    SRNN(n, k) of the paper: a sequence of T steps is cut into ``n^k`` slices of ``T / n^k`` steps (Eq. 10 and 11), the
    recurrence of level 0 reads all of them as one batch, that of level p + 1 reads the last states of level p, n at a
    time (Eq. 12-16). ``n k + T / n^k`` steps are left to take one after another, instead of T (Eq. 22). Every slice
    starts from a zero state, and every level has its own weights, shared by its slices.

    A contiguous ``batch_first`` input that fills its slices is not copied. With ``k=0`` the module is its cell, bit
    for bit.

    Args:
        input_size: Features of a step.
        hidden_size: Features of the state on every level.
        n: How many slices a slice is cut into; or one number a level, from the bottom up: level p reads ``n[p - 1]``
            states.
        k: How often the sequence is cut, 2 by default; leave it out where ``n`` is a list.
        cell: The recurrence: torch's ``"gru"``, ``"lstm"`` (whose ``c`` stays on its level) or ``"rnn"``,
            ``"keras_gru"`` (:class:`KerasGRU`, the paper's own), or a factory called as ``torch.nn.GRU`` is.
        slice_len: Steps of a slice of level 0. Fixed, a sequence is cut in the same places whatever it is padded to,
            the last slice may be shorter, and the top level reads as many states as there are. By default ``T / n^k``,
            which depends on the length of the batch.
        num_layers: Recurrent layers on top of each other on every level.
        bias: Whether the recurrence has biases.
        batch_first: Whether inputs are ``[batch, step, feature]``, not ``[step, batch, feature]``.
        dropout: On what a level hands up to the next, and between layers of a level, in training.
        bidirectional: Whether every level reads its slices backwards too.
        padding: What to do where ``slice_len`` is not given and T does not divide by ``n^k``: refuse it (``"none"``),
            or have the recurrence read zeros after (``"right"``, the paper) or before (``"left"``, its code) the
            sequence.
        device: Of the parameters.
        dtype: Of the parameters.

    Attributes:
        levels: The k + 1 levels, :class:`~tl_neuron_attr.srnn.level.Level`.
        slicing: How a sequence is cut.

    Raises:
        TypeError: If an integer argument is not one, or ``cell`` is neither a name nor a factory.
        ValueError: If a number is out of range, or arguments exclude each other.

    Examples:
        >>> srnn = SRNN(20, 16, n=4, k=2)
        >>> last, states = srnn(torch.randn(3, 64, 20))
        >>> tuple(last.shape), [tuple(s.shape) for s in states]
        ((3, 16), [(3, 16, 16), (3, 4, 16), (3, 1, 16)])

        Sequences of any lengths, each read as if it were alone:

        >>> srnn = SRNN(20, 16, n=4, k=2, slice_len=4)
        >>> last, _ = srnn(torch.randn(3, 61, 20), lengths=torch.tensor([61, 7, 30]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        n: int | Sequence[int] = 8,
        k: int | None = None,
        *,
        cell: CellName | Factory = "gru",
        slice_len: int | None = None,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        padding: Padding = "none",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        for name, value in {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}.items():
            require_integer(name, value, at_least=1)
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must be between 0 and 1, got {dropout}")
        self.slicing = Slicing(as_factors(n, k), slice_len)
        _require_consistent(self.slicing, padding)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.batch_first, self.dropout, self.bidirectional, self.padding = batch_first, dropout, bidirectional, padding
        build = factory(cell)
        options: dict[str, Any] = {
            "num_layers": num_layers,
            "bias": bias,
            "batch_first": True,
            "dropout": dropout if num_layers > 1 else 0.0,
            "bidirectional": bidirectional,
            "device": device,
            "dtype": dtype,
        }
        output_size = hidden_size * (2 if bidirectional else 1)
        engine: Engine = "auto" if self.slicing.k else "library"
        self.levels = nn.ModuleList(
            Level(build(size, hidden_size, **options), bidirectional=bidirectional, engine=engine)
            for size in (input_size, *[output_size] * self.slicing.k)
        )

    def forward(
        self,
        x: Float[Tensor, "_ _ input"] | PackedSequence,
        lengths: Int[Tensor, "batch"] | None = None,
        h_0: Initial | None = None,
    ) -> tuple[Float[Tensor, "batch output"], tuple[Float[Tensor, "_ _ output"], ...]]:
        """Read a batch of sequences.

        Args:
            x: The sequences, ``[batch, step, feature]`` unless ``batch_first`` is False, or packed.
            lengths: How many steps each sequence has; what follows them is ignored, whatever it is. Not for a packed
                ``x``.
            h_0: The state the top level starts from, as the cell takes it: ``[layers, batch, feature]``, and a pair of
                them for an LSTM. All other slices start from zero.

        Returns:
            The last state of the top level, ``[batch, hidden]`` (twice as wide for two directions), and for each level
            the last states of its slices, ``[batch, slice, hidden]`` (``[slice, batch, hidden]`` unless
            ``batch_first``); zeros where a sequence has no such slice.

        Raises:
            TypeError: If ``lengths`` does not hold integers.
            ValueError: If a shape, length, device or dtype will not do; the message says which, and what would.

        Warns:
            UserWarning: If sequences of different lengths are cut by the length of the batch, since ``slice_len`` is
                not set.
        """
        x, lengths = self._unpacked(x, lengths)
        self._require_fitting(x, lengths, h_0)
        states = self._read(*self._cut(x, lengths), h_0)
        return states[-1][:, 0], tuple(states if self.batch_first else (s.transpose(0, 1) for s in states))

    suggest = staticmethod(suggest)

    def extra_repr(self) -> str:
        """How it slices, for ``print``."""
        slice_len = "" if self.slicing.slice_len is None else f", slice_len={self.slicing.slice_len}"
        return f"{self.input_size}, {self.hidden_size}, n={list(self.slicing.factors)}{slice_len}"

    def _unpacked(self, x: Tensor | PackedSequence, lengths: Tensor | None) -> tuple[Batch, Tensor | None]:
        """The sequences, batch first, and their lengths."""
        packed = isinstance(x, PackedSequence)
        if packed:
            if lengths is not None:
                raise ValueError("lengths must be left out with a PackedSequence, which carries its own")
            x, lengths = pad_packed_sequence(x, batch_first=True)
        require_batch(x, self.input_size, batch_first=packed or self.batch_first)
        return (x if packed or self.batch_first else x.transpose(0, 1)), lengths

    def _require_fitting(self, x: Batch, lengths: Tensor | None, h_0: Initial | None) -> None:
        """Refuse what the module cannot read."""
        weight = next(self.parameters(), None)
        if weight is not None:
            require_place(x, weight, h_0)
        if h_0 is not None:
            directions = 2 if self.bidirectional else 1
            shape = self.num_layers * directions, x.shape[0], self.hidden_size
            require_state(h_0, shape, type(self.levels[-1].cell))
        if lengths is not None:
            require_lengths(lengths, *x.shape[:2])
            if self.padding == "left":
                raise ValueError("lengths must be left out with padding='left', which moves every step: set slice_len")
        if self.padding == "none" and self.slicing.slice_len is None:
            require_divisible("the steps of x", x.shape[1], self.slicing.factors, _UNEVEN)

    def _cut(self, x: Batch, lengths: Tensor | None) -> tuple[Float[Tensor, "batch _ feature"], Tensor | None]:
        """The steps to read, and how many of each sequence count, where not all do."""
        T = x.shape[1]
        missing = -T % self.slicing.minimum_slices if self.slicing.slice_len is None else 0
        if lengths is not None:
            if self.slicing.k and self.slicing.slice_len is None:
                slice_len = (T + missing) // self.slicing.minimum_slices
                warnings.warn(_TRAP.format(T=T, slice_len=slice_len), stacklevel=5)
            lengths = self._where_needed(lengths.to(x.device), T + missing)
        if lengths is not None:
            x = x.masked_fill(beyond(lengths, T)[..., None], 0)
        if missing:
            x = F.pad(x, (0, 0, missing, 0) if self.padding == "left" else (0, 0, 0, missing))
        return self._with_room(x, lengths) if torch.compiler.is_compiling() else (x, lengths)

    def _where_needed(self, lengths: Tensor, steps: int) -> Tensor | None:
        """The lengths, unless every sequence is known to fill all steps."""
        full = not torch.compiler.is_compiling() and int(lengths.min()) == steps
        return None if full else lengths

    def _with_room(self, x: Batch, lengths: Tensor | None) -> tuple[Float[Tensor, "batch _ feature"], Tensor | None]:
        """Of fixed slices, as many as the levels were made for: one graph serves every length."""
        batch, T, _ = x.shape
        if self.slicing.slice_len is None:
            return x, lengths
        room = self.slicing.slice_len * self.slicing.minimum_slices
        if room < T:
            raise ValueError(f"x has {T} steps, a compiled or exported module takes {room}: cut x, or raise k")
        lengths = torch.full((batch,), T, device=x.device) if lengths is None else lengths
        return F.pad(x, (0, 0, 0, room - T)), lengths

    def _read(self, inputs: Batch, counts: Tensor | None, h_0: Initial | None) -> list[Float[Tensor, "batch _ output"]]:
        """The last states of every level's slices (Eq. 14-16); of each sequence, the first ``counts`` inputs count."""
        states: list[Tensor] = []
        for level, (slices, length) in zip(self.levels, self.slicing.levels(inputs.shape[1]), strict=True):
            if states:
                inputs = F.dropout(inputs, self.dropout, self.training)
            rows, steps = fold(inputs, counts, slices, length)
            inputs = level(rows, h_0 if len(states) == self.slicing.k else None, steps).unflatten(0, (-1, slices))
            if counts is not None:
                counts = (counts + length - 1) // length
                inputs = inputs.masked_fill(beyond(counts, slices)[..., None], 0)
            states.append(inputs)
        return states


_UNEVEN = "set slice_len to cut slices of that many steps, or padding='right' or 'left' to add zeros"

_TRAP = (
    "lengths without slice_len: slices of {slice_len} steps follow from the {T} steps of this batch, so that a "
    "sequence has another result in a longer batch; SRNN(..., slice_len={slice_len}) cuts it in the same places always"
)


def _require_consistent(slicing: Slicing, padding: Padding) -> None:
    if padding not in get_args(Padding):
        raise ValueError(f"padding must be one of {', '.join(map(repr, get_args(Padding)))}, got {padding!r}")
    if slicing.slice_len is None:
        return
    require_integer("slice_len", slicing.slice_len, at_least=1)
    if not slicing.k:
        raise ValueError(f"slice_len={slicing.slice_len} has no meaning with k=0, which cuts nothing: leave it out")
    if padding != "none":
        raise ValueError(f"padding={padding!r} excludes slice_len, whose last slice may be shorter: leave one out")
