"""The forward and backward equations of the cells that have a fused level, on one chunk of rows, in place."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tl_neuron_attr.srnn.cells import KerasGRU

Columns = Float[Tensor, "*row column"]
State = Float[Tensor, "*row hidden"]
Recurrent = Float[Tensor, "gate hidden"]


class Weights(NamedTuple):
    """A cell's parameters in the order of the gate buffer's columns, as differentiable functions of the parameters.

    Attributes:
        w_x: The input's weights, for the first columns.
        w_h: The state's weights, for the columns that the :class:`Equations` name.
        bias: One number per column.
    """

    w_x: Float[Tensor, "gate input"]
    w_h: Recurrent
    bias: Float[Tensor, "column"]


class Equations(ABC):
    """One cell on a chunk of rows. ``gates`` holds a step's activated gates, ``h`` the state before the step.

    The next state is ``update * h + (1 - update) * candidate`` (paper 4, Eq. 4).
    """

    @abstractmethod
    def weights(self, cell: Any) -> Weights:
        """Return the cell's parameters in the order of the buffer's columns."""

    @abstractmethod
    def split(self, gates: Columns) -> tuple[State, State]:
        """Return the views of the candidate and the update gate in the buffer."""

    @abstractmethod
    def activate(self, gates: Columns, h: State, w_h: Recurrent, *, started: bool) -> None:
        """Turn the input's products in ``gates`` into activated gates; ``h`` is zero unless ``started``."""

    @abstractmethod
    def factors(self, gates: Columns, h: State, d: Columns) -> None:
        """Write to ``d`` the factors that turn the state's gradient into each column's gradient before activation."""

    @abstractmethod
    def step_back(self, d: Columns, gates: Columns, dh: State, w_h: Recurrent, *, started: bool) -> None:
        """Turn the factors into gradients, and ``dh`` after the step into ``dh`` before it."""

    @abstractmethod
    def add_grad_w_h(self, grad: Recurrent, d: Columns, gates: Columns, h: State) -> None:
        """Add the contribution of the rows of ``d`` to the gradient of ``w_h``."""

    @abstractmethod
    def step(self, x: Float[Tensor, "row input"], h: State, weights: Weights) -> State:
        """Return the next state by differentiable operations, for derivatives of higher order."""


class _TorchGRU(Equations):
    """``torch.nn.GRU``, which applies the reset gate after the product with the state.

    Columns: candidate, reset, update, and the candidate's product with the state. The input feeds the first three and
    the state the last three, so that each needs one matrix product.
    """

    def weights(self, cell: nn.GRU) -> Weights:
        H = cell.hidden_size
        w_x, w_h = (getattr(cell, name) for name in ("weight_ih_l0", "weight_hh_l0"))
        b_x, b_h = (getattr(cell, name, w_x.new_zeros(3 * H)) for name in ("bias_ih_l0", "bias_hh_l0"))
        bias = torch.cat([b_x[2 * H :], b_x[: 2 * H] + b_h[: 2 * H], b_h[2 * H :]])
        return Weights(torch.cat([w_x[2 * H :], w_x[: 2 * H]]), w_h, bias)

    def split(self, gates: Columns) -> tuple[State, State]:
        candidate, _, update, _ = gates.chunk(4, dim=-1)
        return candidate, update

    def activate(self, gates: Columns, h: State, w_h: Recurrent, *, started: bool) -> None:
        H = h.shape[1]
        if started:
            gates[:, H:].addmm_(h, w_h.t())
        gates[:, H : 3 * H].sigmoid_()
        candidate, reset, _, product = gates.chunk(4, dim=1)
        candidate.addcmul_(reset, product).tanh_()

    def factors(self, gates: Columns, h: State, d: Columns) -> None:
        candidate, reset, update, product = gates.chunk(4, dim=-1)
        d_candidate, d_reset, d_update, d_product = d.chunk(4, dim=-1)
        keep = 1 - update
        torch.mul(candidate, candidate, out=d_candidate).neg_().add_(1).mul_(keep)
        torch.mul(d_candidate, reset, out=d_product)
        torch.mul(d_product, product, out=d_reset).addcmul_(d_reset, reset, value=-1)
        torch.sub(h, candidate, out=d_update).mul_(keep).mul_(update)

    def step_back(self, d: Columns, gates: Columns, dh: State, w_h: Recurrent, *, started: bool) -> None:
        H = dh.shape[1]
        d.unflatten(1, (4, H)).mul_(dh[:, None])
        dh.mul_(gates[:, 2 * H : 3 * H])
        if started:
            dh.addmm_(d[:, H:], w_h)

    def add_grad_w_h(self, grad: Recurrent, d: Columns, gates: Columns, h: State) -> None:
        grad.addmm_(d[:, h.shape[1] :].t(), h)

    def step(self, x: Float[Tensor, "row input"], h: State, weights: Weights) -> State:
        H = h.shape[1]
        from_x = F.linear(x, weights.w_x, weights.bias[: 3 * H])
        from_h = F.linear(h, weights.w_h)
        reset, update = (from_x[:, H:] + from_h[:, : 2 * H]).sigmoid().chunk(2, dim=1)
        candidate = (from_x[:, :H] + reset * (from_h[:, 2 * H :] + weights.bias[3 * H :])).tanh()
        return candidate + update * (h - candidate)


class _KerasGRU(Equations):
    """:class:`~tl_neuron_attr.srnn.KerasGRU`, which resets before the product. Columns: reset, update, candidate."""

    def weights(self, cell: KerasGRU) -> Weights:
        w_x, w_h, bias = cell.weights()
        return Weights(w_x, w_h, w_x.new_zeros(len(w_x)) if bias is None else bias)

    def split(self, gates: Columns) -> tuple[State, State]:
        _, update, candidate = gates.chunk(3, dim=-1)
        return candidate, update

    def activate(self, gates: Columns, h: State, w_h: Recurrent, *, started: bool) -> None:
        H = h.shape[1]
        open_gates = gates[:, : 2 * H]
        if started:
            open_gates.addmm_(h, w_h[: 2 * H].t())
        open_gates.sigmoid_()
        if started:
            gates[:, 2 * H :].addmm_(gates[:, :H] * h, w_h[2 * H :].t())

    def factors(self, gates: Columns, h: State, d: Columns) -> None:
        reset, update, candidate = gates.chunk(3, dim=-1)
        d_reset, d_update, d_candidate = d.chunk(3, dim=-1)
        torch.sub(1, update, out=d_candidate)
        torch.sub(h, candidate, out=d_update).mul_(d_candidate).mul_(update)
        torch.sub(1, reset, out=d_reset).mul_(reset).mul_(h)

    def step_back(self, d: Columns, gates: Columns, dh: State, w_h: Recurrent, *, started: bool) -> None:
        H = dh.shape[1]
        reset, update, _ = gates.chunk(3, dim=1)
        d_reset, _, d_candidate = d.chunk(3, dim=1)
        d[:, H:].unflatten(1, (2, H)).mul_(dh[:, None])
        dh.mul_(update)
        if started:
            through_reset = d_candidate @ w_h[2 * H :]
            d_reset.mul_(through_reset)
            dh.addcmul_(through_reset, reset).addmm_(d[:, : 2 * H], w_h[: 2 * H])

    def add_grad_w_h(self, grad: Recurrent, d: Columns, gates: Columns, h: State) -> None:
        H = h.shape[1]
        grad[: 2 * H].addmm_(d[:, : 2 * H].t(), h)
        grad[2 * H :].addmm_(d[:, 2 * H :].t(), gates[:, :H] * h)

    def step(self, x: Float[Tensor, "row input"], h: State, weights: Weights) -> State:
        return KerasGRU.step(F.linear(x, weights.w_x, weights.bias), h, weights.w_h)


EQUATIONS: dict[type[nn.Module], Equations] = {nn.GRU: _TorchGRU(), KerasGRU: _KerasGRU()}
"""The cells that have a fused level, each with its equations."""
