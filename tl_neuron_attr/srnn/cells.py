"""The recurrences ``h_t = f(h_(t-1), x_t)`` (paper 4, Eq. 5) of a level: torch's, Keras 2.1.5's GRU, linear."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tl_neuron_attr.srnn.slicing import padding_mask, require_integer

CellName = Literal["gru", "lstm", "rnn", "keras_gru"]
"""The recurrences that have a name here."""

Factory = Callable[..., nn.Module]
"""A function or class that makes a recurrence. It takes the arguments of ``torch.nn.GRU``; its result is called like a
``torch.nn.GRU`` with ``batch_first=True`` and returns ``(output, final state)``."""


class Recurrence(nn.Module):
    """A stack of recurrent layers with the interface of ``torch.nn.GRU``; a subclass defines the step.

    Args:
        input_size: Features of the input.
        hidden_size: Features of the state.
        num_layers: Layers on top of each other.
        bias: Whether the layers have a bias: one, because the two of torch are only ever added.
        batch_first: Must be True; it exists to match the signature of ``torch.nn.GRU``.
        dropout: The dropout rate in training, applied to the output of every layer except the last.
        bidirectional: Whether a second recurrence reads each row backwards.
        device: The device of the parameters.
        dtype: The dtype of the parameters.

    Raises:
        TypeError: If a size is not an integer.
        ValueError: If a size is not positive, or ``batch_first`` is False.
    """

    gates = 1
    """The number of blocks of ``hidden_size`` rows in the weights."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
        for name, size in sizes.items():
            require_integer(name, size, at_least=1)
        if not batch_first:
            raise ValueError("batch_first must be True: transpose the input, or use SRNN(batch_first=False)")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.dropout, self.bidirectional = bias, dropout, bidirectional
        rows = self.gates * hidden_size
        for layer in range(num_layers):
            width = input_size if layer == 0 else hidden_size * self.directions
            for suffix in self._suffixes(layer):
                shapes = {"weight_ih": (rows, width), "weight_hh": (rows, hidden_size), "bias": (rows,)}
                for name, shape in shapes.items():
                    value = torch.empty(shape, device=device, dtype=dtype) if bias or name != "bias" else None
                    self.register_parameter(name + suffix, None if value is None else nn.Parameter(value))
        self.reset_parameters()

    @property
    def directions(self) -> int:
        """Return 2 if a second recurrence reads backwards, otherwise 1."""
        return 2 if self.bidirectional else 1

    def reset_parameters(self) -> None:
        """Draw every parameter uniformly within ``1 / sqrt(hidden_size)``, as torch's recurrences do."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    @staticmethod
    def step(
        projected: Float[Tensor, "row gate"], h: Float[Tensor, "row hidden"], weight_hh: Float[Tensor, "gate hidden"]
    ) -> Float[Tensor, "row hidden"]:
        """Return the next state, given the projected input (input weights and bias applied) and the state before."""
        raise NotImplementedError

    def forward(
        self,
        x: Float[Tensor, "row step input"],
        h_0: Float[Tensor, "layer row hidden"] | None = None,
        *,
        steps: Int[Tensor, "row"] | None = None,
    ) -> tuple[Float[Tensor, "row step output"], Float[Tensor, "layer row hidden"]]:
        """Return the last layer's states at every step, and every layer's state after the last step.

        Args:
            x: The input.
            h_0: The states before the first step; zero by default.
            steps: The number of steps in each row; what follows is padding, which leaves the state unchanged.
        """
        mask = None if steps is None else padding_mask(steps, x.shape[1])
        finals: list[Tensor] = []
        for layer in range(self.num_layers):
            outputs: list[Tensor] = []
            for suffix in self._suffixes(layer):
                start = x.new_zeros(x.shape[0], self.hidden_size) if h_0 is None else h_0[len(finals)]
                states = self._scan(x, start, mask, suffix)
                finals.append(states[0 if suffix.endswith("reverse") else -1])
                outputs.append(torch.stack(states, dim=1))
            x = torch.cat(outputs, dim=-1)
            if layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        return x, torch.stack(finals)

    def weights(self, suffix: str = "_l0") -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the input weights, recurrent weights and bias of one layer and direction."""
        weight_ih, weight_hh, bias = (getattr(self, name + suffix) for name in ("weight_ih", "weight_hh", "bias"))
        return weight_ih, weight_hh, bias

    def extra_repr(self) -> str:
        """Return the sizes, for ``print``."""
        return f"{self.input_size}, {self.hidden_size}"

    def _suffixes(self, layer: int) -> tuple[str, ...]:
        return (f"_l{layer}", f"_l{layer}_reverse")[: self.directions]

    def _scan(
        self,
        x: Float[Tensor, "row step input"],
        h: Float[Tensor, "row hidden"],
        mask: Bool[Tensor, "row step"] | None,
        suffix: str,
    ) -> list[Tensor]:
        """Return the states of one direction, in the order of the input."""
        weight_ih, weight_hh, bias = self.weights(suffix)
        projected = F.linear(x, weight_ih, bias).unbind(1)
        order = range(len(projected))
        states = [h] * len(projected)
        for t in reversed(order) if suffix.endswith("reverse") else order:
            new = self.step(projected[t], h, weight_hh)
            h = new if mask is None else torch.where(mask[:, t, None], h, new)
            states[t] = h
        return states


class KerasGRU(Recurrence):
    """The GRU that the paper ran, which is not torch's.

    Keras 2.1.5 applies the reset gate before the product, and the paper leaves the candidate linear (section 4.2)::

        r = sigmoid(W_r x + U_r h + b_r)        (Eq. 1)
        z = sigmoid(W_z x + U_z h + b_z)        (Eq. 2)
        h~ = W_h x + U_h (r * h) + b_h          (Eq. 3, without its tanh)
        h' = z * h + (1 - z) * h~               (Eq. 4)

    The rows of the weights are in the order r, z, h. Weights start as in Keras: Glorot-uniform, orthogonal, zero. The
    state is not bounded, so large inputs give large states.

    Examples:
        With zero weights both gates are a half and the candidate is zero, so each step halves the state:

        >>> gru = KerasGRU(1, 1)
        >>> with torch.no_grad():
        ...     _ = [p.zero_() for p in gru.parameters()]
        >>> gru(torch.ones(1, 3, 1), torch.ones(1, 1, 1))[0].flatten().tolist()
        [0.5, 0.25, 0.125]
    """

    gates = 3

    def reset_parameters(self) -> None:
        """Draw Glorot-uniform input weights and orthogonal recurrent weights, and zero the bias, as Keras does."""
        for name, parameter in self.named_parameters():
            if name.startswith("weight_ih"):
                nn.init.xavier_uniform_(parameter)
            elif name.startswith("weight_hh"):
                nn.init.orthogonal_(parameter)
            else:
                nn.init.zeros_(parameter)

    @staticmethod
    def step(
        projected: Float[Tensor, "row gate"], h: Float[Tensor, "row hidden"], weight_hh: Float[Tensor, "gate hidden"]
    ) -> Float[Tensor, "row hidden"]:
        """Return the next state: Eq. 1, Eq. 2, Eq. 3 with a linear candidate, Eq. 4."""
        H = h.shape[1]
        reset, update = (projected[:, : 2 * H] + F.linear(h, weight_hh[: 2 * H])).sigmoid().chunk(2, dim=1)
        candidate = projected[:, 2 * H :] + F.linear(reset * h, weight_hh[2 * H :])
        return candidate + update * (h - candidate)


class LinearRNN(Recurrence):
    """``h' = U x + W h + b`` (paper 4, Eq. 24 with f(x) = x), the network that the theorem of section 3.4 is about.

    The paper's letters change with its sections: the input weights ``weight_ih_l0`` are ``U`` here and ``W`` in the
    GRU (Eq. 1), the recurrent weights ``weight_hh_l0`` are ``W`` here and ``U`` there. ``b`` is ``bias_l0``.

    Examples:
        >>> rnn = LinearRNN(1, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = rnn.weight_ih_l0.fill_(1.0), rnn.weight_hh_l0.fill_(0.5)
        >>> rnn(torch.tensor([[[8.0], [0.0], [0.0]]]))[0].flatten().tolist()
        [8.0, 4.0, 2.0]
    """

    @staticmethod
    def step(
        projected: Float[Tensor, "row gate"], h: Float[Tensor, "row hidden"], weight_hh: Float[Tensor, "gate hidden"]
    ) -> Float[Tensor, "row hidden"]:
        """Return the next state (Eq. 24)."""
        return torch.addmm(projected, h, weight_hh.t())


def factory(cell: "CellName | Factory") -> Factory:
    """Return the factory that ``cell`` names; a factory is returned as it is.

    Raises:
        ValueError: If no recurrence has that name.
        TypeError: If ``cell`` is neither a name nor callable.

    Examples:
        >>> factory("keras_gru").__name__
        'KerasGRU'
    """
    known: dict[str, Factory] = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN, "keras_gru": KerasGRU}
    if isinstance(cell, str):
        if cell not in known:
            raise ValueError(f"cell must be one of {', '.join(map(repr, known))} or a factory, got {cell!r}")
        return known[cell]
    if not callable(cell):
        raise TypeError(f"cell must be a name or a factory called as torch.nn.GRU is, got {cell!r}")
    return cell
