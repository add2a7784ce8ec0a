"""A level's recurrence, written for many short rows of which only the last state is wanted.

``torch.nn.GRU`` runs a step on a CPU as some fifteen small operations, and its backward pass as more. Here a step is
five operations forward and three backward, in place, on a chunk of rows that stays in the processor's cache:

Phase 1  One matrix product multiplies the inputs of all steps by their weights, into the buffer of gates.

Phase 2  Each step adds the state's products to its columns of the buffer, applies the gates there, and moves the state.

Phase 3  Backward, all that does not depend on the incoming gradient is computed for all steps at once, so that a step
is ``d = factor * dh`` and ``dh = update * dh + d w_h``.

Phase 4  The gradients of the weights and of the input are one matrix product each.

A row that ends early keeps its state: its update gate is 1 on the padding, which is right in the backward pass too.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tl_neuron_attr.srnn.equations import EQUATIONS, Equations, State, Weights

_CHUNK_ROWS = 256
"""The fewest rows of a chunk: with fewer, the matrix product of a step does not reach its full speed."""

_CHUNK_STATES = 1 << 14
"""Rows times features of a chunk: four gates of that many numbers take 256 KB, half a second-level cache."""

_Input = Float[Tensor, "row step input"]
_Mask = Bool[Tensor, "row step"]


def last_states(cell: nn.Module, x: _Input, h_0: State | None = None, mask: _Mask | None = None) -> State:
    """Return the state of ``cell``, which has one layer and one direction, after the last step of each row.

    Equal to ``cell(x, h_0[None])[1][0]`` up to rounding, with derivatives of any order.

    Args:
        cell: A cell of a type in :data:`~tl_neuron_attr.srnn.equations.EQUATIONS`.
        x: The input.
        h_0: The state before the first step; zero by default.
        mask: True on padding, which leaves the state unchanged; ``x`` must be finite there too.

    Examples:
        >>> gru, x = nn.GRU(3, 4, batch_first=True), torch.randn(5, 6, 3)
        >>> torch.allclose(last_states(gru, x), gru(x)[1][0], atol=1e-6)
        True
    """
    equations = EQUATIONS[type(cell)]
    weights = equations.weights(cell)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, h_0, *weights)):
        return _LastStates.apply(equations, mask, x, h_0, *weights)
    scratch = _Tape.empty(x, weights, rows=min(len(x), _chunk_rows(weights)))
    return _forward(equations, mask, x, h_0, weights, scratch)


class _Tape(NamedTuple):
    """The activated gates and the state before each step, of all rows for a backward pass, else of a chunk."""

    gates: Float[Tensor, "row step column"]
    before: Float[Tensor, "row step hidden"]

    @classmethod
    def empty(cls, x: _Input, weights: Weights, *, rows: int) -> "_Tape":
        gates = x.new_empty(rows, x.shape[1], len(weights.bias))
        return cls(gates, x.new_empty(rows, x.shape[1], weights.w_h.shape[1]))

    def chunk(self, rows: slice) -> "_Tape":
        """Return the views for these rows; a tape with room for one chunk reuses its first rows."""
        place = rows if rows.stop <= len(self.gates) else slice(rows.stop - rows.start)
        return _Tape(self.gates[place], self.before[place])


def _forward(
    equations: Equations, mask: _Mask | None, x: _Input, h_0: State | None, weights: Weights, tape: _Tape
) -> State:
    w_x, w_h, bias = weights
    last = x.new_empty(len(x), w_h.shape[1])
    for rows in _chunks(x, weights):
        gates, before = tape.chunk(rows)
        gates.copy_(bias)
        gates.flatten(0, 1)[:, : len(w_x)].addmm_(x[rows].flatten(0, 1), w_x.t())
        before[:, 0] = 0 if h_0 is None else h_0[rows]
        states = [*before.unbind(1), last[rows]]
        for t, step in enumerate(gates.unbind(1)):
            equations.activate(step, states[t], w_h, started=t > 0 or h_0 is not None)
            candidate, update = equations.split(step)
            if mask is not None:
                update.masked_fill_(mask[rows, t, None], 1)
            torch.lerp(candidate, states[t], update, out=states[t + 1])
    return last


class _LastStates(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, equations: Equations, mask: _Mask | None, x: _Input, h_0: State | None, *weights_: Tensor
    ) -> State:
        weights = Weights(*weights_)
        tape = _Tape.empty(x, weights, rows=len(x))
        ctx.equations = equations
        ctx.save_for_backward(mask, x, h_0, *weights, *tape)
        return _forward(equations, mask, x, h_0, weights, tape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        mask, x, h_0, w_x, w_h, bias, gates, before = ctx.saved_tensors
        weights, wanted = Weights(w_x, w_h, bias), ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():
            found = _differentiable_backward(ctx.equations, mask, x, h_0, weights, grads[0], wanted)
        else:
            found = _backward(ctx.equations, x, h_0, weights, _Tape(gates, before), grads[0], wanted)
        return None, None, *found


def _backward(
    equations: Equations,
    x: _Input,
    h_0: State | None,
    weights: Weights,
    tape: _Tape,
    grad: State,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Return the gradients of ``x``, ``h_0`` and the weights; None for those not wanted."""
    w_x, w_h, bias = weights
    dx = x.new_empty(x.shape) if wanted[0] else None
    dh = grad.clone(memory_format=torch.contiguous_format)
    d_weights = Weights(*(torch.zeros_like(w, memory_format=torch.contiguous_format) for w in weights))
    scratch = x.new_empty(min(len(x), _chunk_rows(weights)), x.shape[1], len(bias))
    for rows in _chunks(x, weights):
        gates, before = tape.chunk(rows)
        d = scratch[: len(gates)]
        equations.factors(gates, before, d)
        for t in reversed(range(x.shape[1])):
            equations.step_back(d[:, t], gates[:, t], dh[rows], w_h, started=t > 0 or h_0 is not None)
        flat, from_x = d.flatten(0, 1), d.flatten(0, 1)[:, : len(w_x)]
        if dx is not None:
            torch.mm(from_x, w_x, out=dx[rows].flatten(0, 1))
        if wanted[2]:
            d_weights.w_x.addmm_(from_x.t(), x[rows].flatten(0, 1))
        if wanted[3]:
            equations.add_grad_w_h(d_weights.w_h, flat, gates.flatten(0, 1), before.flatten(0, 1))
        if wanted[4]:
            d_weights.bias.add_(flat.sum(0))
    return [g if w else None for g, w in zip((dx, dh, *d_weights), wanted, strict=True)]


def _differentiable_backward(
    equations: Equations,
    mask: _Mask | None,
    x: _Input,
    h_0: State | None,
    weights: Weights,
    grad: State,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Return the same by differentiable operations, running the steps again: for ``create_graph=True``."""
    h = x.new_zeros(len(x), weights.w_h.shape[1]) if h_0 is None else h_0
    for t, step in enumerate(x.unbind(1)):
        new = equations.step(step, h, weights)
        h = new if mask is None else torch.where(mask[:, t, None], h, new)
    inputs = [i for i, w in zip((x, h_0, *weights), wanted, strict=True) if w and i is not None]
    found = iter(torch.autograd.grad(h, inputs, grad, create_graph=True))
    return [next(found) if w else None for w in wanted]


def _chunks(x: _Input, weights: Weights) -> Iterator[slice]:
    size = _chunk_rows(weights)
    return (slice(start, min(start + size, len(x))) for start in range(0, len(x), size))


def _chunk_rows(weights: Weights) -> int:
    """Return the number of rows in a chunk: few enough for the cache, enough for a fast matrix product."""
    return max(_CHUNK_ROWS, _CHUNK_STATES // weights.w_h.shape[1])
