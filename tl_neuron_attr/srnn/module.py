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
from tl_neuron_attr.srnn.slicing import Slicing, as_factors, fold, padding_mask, require_integer
from tl_neuron_attr.srnn.suggest import suggest

_Batch = Float[Tensor, "batch step feature"]

Padding = Literal["none", "left", "right"]
"""Where zeros go if T steps do not fill the slices: nowhere (such a T is refused), before the sequence, or after it."""


class SRNN(nn.Module):
    """A recurrent network that reads the slices of a sequence side by side, then their last states, and so on k times.

    This is SRNN(n, k) of the paper. A sequence of T steps is cut into ``n^k`` slices (Eq. 11) of ``T / n^k`` steps
    (Eq. 10). The recurrence of level 0 reads all of them as one batch (Eq. 14); that of level p + 1 reads the last
    states of level p, n at a time (Eq. 15); the last state of level k represents the sequence (Eq. 16). Only
    ``n k + T / n^k`` steps run one after another, instead of T (Eq. 22). Every slice starts from a zero state. A level
    has weights of its own, shared by its slices.

    A contiguous ``batch_first`` input that fills its slices is not copied. With ``k=0`` the module gives the same bits
    as its cell.

    Args:
        input_size: The number of features of a step.
        hidden_size: The number of features of the state, on every level.
        n: The number of slices that a slice is cut into; or a list with one number per level from the bottom up, so
            that level p reads ``n[p - 1]`` states at a time.
        k: How often the sequence is cut, 2 by default; leave it out if ``n`` is a list.
        cell: The recurrence: torch's ``"gru"``, ``"lstm"`` (whose ``c`` stays on its level) or ``"rnn"``,
            ``"keras_gru"`` (:class:`KerasGRU`, the paper's own), or a factory that takes the arguments of
            ``torch.nn.GRU``.
        slice_len: The number of steps in a slice of level 0. If it is set, a sequence is cut in the same places
            whatever its padding, the last slice may be shorter, and the top level reads as many states as there are.
            By default it is ``T / n^k``, which depends on the length of the batch.
        num_layers: The number of recurrent layers on each level.
        bias: Whether the recurrence has biases.
        batch_first: Whether inputs are ``[batch, step, feature]`` rather than ``[step, batch, feature]``.
        dropout: The dropout rate in training, on the states that one level passes to the next and between the layers
            of a level.
        bidirectional: Whether every level also reads its slices backwards.
        padding: What to do if ``slice_len`` is not set and ``n^k`` does not divide T: refuse the input (``"none"``), or
            read zeros after the sequence (``"right"``, as in the paper) or before it (``"left"``, as in its code).
        device: The device of the parameters.
        dtype: The dtype of the parameters.

    Attributes:
        levels: The k + 1 levels, each a :class:`~tl_neuron_attr.srnn.level.Level`.
        slicing: How a sequence is cut.

    Raises:
        TypeError: If a number is not an integer, or ``cell`` is neither a name nor a factory.
        ValueError: If a number is out of range, or two arguments exclude each other.

    Examples:
        >>> srnn = SRNN(20, 16, n=4, k=2)
        >>> last, states = srnn(torch.randn(3, 64, 20))
        >>> tuple(last.shape), [tuple(s.shape) for s in states]
        ((3, 16), [(3, 16, 16), (3, 4, 16), (3, 1, 16)])

        With ``slice_len`` sequences may have any length, and what follows a sequence changes nothing:

        >>> srnn = SRNN(20, 16, n=4, k=2, slice_len=4)
        >>> x = torch.randn(3, 61, 20)
        >>> last, _ = srnn(x, lengths=torch.tensor([61, 7, 30]))
        >>> torch.allclose(last[1], srnn(x[1:2, :7])[0][0], atol=1e-6)
        True
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
            lengths: The number of steps in each sequence; what follows them is ignored, even NaN. Leave it out for a
                packed ``x``.
            h_0: The state from which the top level starts, as the cell takes it: ``[layers, batch, feature]``, or a
                pair of them for an LSTM. All other slices start from zero.

        Returns:
            The last state of the top level, ``[batch, hidden]`` (twice as wide for two directions), and for each level
            the last states of its slices, ``[batch, slice, hidden]`` (``[slice, batch, hidden]`` unless
            ``batch_first``); zeros where a sequence has no such slice.

        Raises:
            TypeError: If ``lengths`` does not hold integers.
            ValueError: If a shape, length, device or dtype does not fit; the message names it and the fix.

        Warns:
            UserWarning: If ``lengths`` is given without ``slice_len``, so that the batch's length decides where each
                sequence is cut.
        """
        x, lengths = self._unpacked(x, lengths)
        self._require_fitting(x, lengths, h_0)
        states = self._read(*self._cut(x, lengths), h_0)
        return states[-1][:, 0], tuple(states if self.batch_first else (s.transpose(0, 1) for s in states))

    suggest = classmethod(suggest)

    def extra_repr(self) -> str:
        """Return the sizes and factors, for ``print``."""
        slice_len = "" if self.slicing.slice_len is None else f", slice_len={self.slicing.slice_len}"
        return f"{self.input_size}, {self.hidden_size}, n={list(self.slicing.factors)}{slice_len}"

    def _unpacked(self, x: Tensor | PackedSequence, lengths: Tensor | None) -> tuple[_Batch, Tensor | None]:
        """Return the sequences, batch first, and their lengths."""
        packed = isinstance(x, PackedSequence)
        if packed:
            if lengths is not None:
                raise ValueError("lengths must be left out with a PackedSequence, which carries its own")
            x, lengths = pad_packed_sequence(x, batch_first=True)
        require_batch(x, self.input_size, batch_first=packed or self.batch_first)
        return (x if packed or self.batch_first else x.transpose(0, 1)), lengths

    def _require_fitting(self, x: _Batch, lengths: Tensor | None, h_0: Initial | None) -> None:
        """Raise an error if the module cannot read this input."""
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

    def _cut(self, x: _Batch, lengths: Tensor | None) -> tuple[Float[Tensor, "batch _ feature"], Tensor | None]:
        """Return the steps to read, and each sequence's length unless all are full."""
        T = x.shape[1]
        missing = -T % self.slicing.minimum_slices if self.slicing.slice_len is None else 0
        if lengths is not None:
            if self.slicing.k and self.slicing.slice_len is None:
                slice_len = (T + missing) // self.slicing.minimum_slices
                warnings.warn(_TRAP.format(T=T, slice_len=slice_len), stacklevel=5)
            lengths = self._where_needed(lengths.to(x.device), T + missing)
        if lengths is not None:
            x = x.masked_fill(padding_mask(lengths, T)[..., None], 0)
        if missing:
            x = F.pad(x, (0, 0, missing, 0) if self.padding == "left" else (0, 0, 0, missing))
        return self._with_room(x, lengths) if torch.compiler.is_compiling() else (x, lengths)

    def _where_needed(self, lengths: Tensor, steps: int) -> Tensor | None:
        """Return the lengths, or None if every sequence is known to fill all steps."""
        full = not torch.compiler.is_compiling() and int(lengths.min()) == steps
        return None if full else lengths

    def _with_room(self, x: _Batch, lengths: Tensor | None) -> tuple[Float[Tensor, "batch _ feature"], Tensor | None]:
        """Pad to the most slices that the levels can read, so that one compiled graph serves every length."""
        batch, T, _ = x.shape
        if self.slicing.slice_len is None:
            return x, lengths
        room = self.slicing.slice_len * self.slicing.minimum_slices
        if room < T:
            raise ValueError(f"x has {T} steps, a compiled or exported module takes {room}: cut x, or raise k")
        lengths = torch.full((batch,), T, device=x.device) if lengths is None else lengths
        return F.pad(x, (0, 0, 0, room - T)), lengths

    def _read(
        self, inputs: _Batch, counts: Tensor | None, h_0: Initial | None
    ) -> list[Float[Tensor, "batch _ output"]]:
        """Return the last states of every level's slices (Eq. 14, Eq. 15, Eq. 16), reading ``counts`` inputs each."""
        states: list[Tensor] = []
        for level, (slices, length) in zip(self.levels, self.slicing.levels(inputs.shape[1]), strict=True):
            if states:
                inputs = F.dropout(inputs, self.dropout, self.training)
            rows, steps = fold(inputs, counts, slices, length)
            inputs = level(rows, h_0 if len(states) == self.slicing.k else None, steps).unflatten(0, (-1, slices))
            if counts is not None:
                counts = (counts + length - 1) // length
                inputs = inputs.masked_fill(padding_mask(counts, slices)[..., None], 0)
            states.append(inputs)
        return states


_UNEVEN = "set slice_len to cut slices of that many steps, or padding='right' or 'left' to add zeros"

_TRAP = (
    "lengths without slice_len: the {T} steps of this batch make slices of {slice_len} steps, so a sequence gets "
    "another result in a longer batch; SRNN(..., slice_len={slice_len}) always cuts it in the same places"
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
