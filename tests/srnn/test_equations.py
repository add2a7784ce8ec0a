"""One step of each fused cell: its gates against the formulas of the cell, its gradients against autograd."""

import pytest
import torch
from torch import nn

from tests.srnn import oracle
from tl_neuron_attr.srnn import KerasGRU
from tl_neuron_attr.srnn.equations import EQUATIONS

CELLS = {"gru": nn.GRU, "keras_gru": KerasGRU}
ROWS, INPUTS, HIDDEN = 6, 3, 4


@pytest.fixture(params=CELLS)
def cell(request):
    made = CELLS[request.param](INPUTS, HIDDEN, batch_first=True, dtype=torch.float64)
    for parameter in made.parameters():
        nn.init.uniform_(parameter, -0.9, 0.9)
    return made


def expected(cell, x, h):
    """The next state by torch's own cell, or by the paper's Eq. 1-4."""
    step = oracle.gru if isinstance(cell, nn.GRU) else oracle.keras_gru
    return step(x, h, *oracle.parameters(cell, "_l0"))


def activated(cell, x, h, started):
    """The activated gates, by the protocol that ``Equations`` describes, and the weights."""
    equations = EQUATIONS[type(cell)]
    weights = equations.weights(cell)
    gates = weights.bias.expand(ROWS, -1).clone()
    gates[:, : len(weights.w_x)] += x @ weights.w_x.T
    equations.activate(gates, h, weights.w_h, started=started)
    return equations, weights, gates


@torch.no_grad()
@pytest.mark.parametrize("started", [False, True])
def test_activated_gates_make_the_next_state(cell, started):
    x, h = torch.randn(ROWS, INPUTS).double(), torch.randn(ROWS, HIDDEN).double() * started
    equations, weights, gates = activated(cell, x, h, started)
    candidate, update = equations.split(gates)
    torch.testing.assert_close(update * h + (1 - update) * candidate, expected(cell, x, h))
    torch.testing.assert_close(equations.step(x, h, weights), expected(cell, x, h))


@pytest.mark.parametrize("started", [False, True])
def test_a_step_back_gives_the_gradients_of_autograd(cell, started):
    x = torch.randn(ROWS, INPUTS).double().requires_grad_()
    h = (torch.randn(ROWS, HIDDEN).double() * started).requires_grad_()
    grad = torch.randn(ROWS, HIDDEN).double()
    weights = EQUATIONS[type(cell)].weights(cell)
    wanted = (x, h, weights.w_h, weights.bias)
    dx, dh, d_w_h, d_bias = torch.autograd.grad(EQUATIONS[type(cell)].step(x, h, weights), wanted, grad)
    with torch.no_grad():
        equations, weights, gates = activated(cell, x, h, started)
        d, before = torch.empty_like(gates), grad.clone()
        equations.factors(gates, h, d)
        equations.step_back(d, gates, before, weights.w_h, started=started)
        found = torch.zeros_like(weights.w_h)
        equations.add_grad_w_h(found, d, gates, h)
    torch.testing.assert_close(d[:, : len(weights.w_x)] @ weights.w_x, dx)
    torch.testing.assert_close(d.sum(0), d_bias)
    torch.testing.assert_close(found, d_w_h)
    if started:
        torch.testing.assert_close(before, dh)


def test_a_saturated_update_gate_keeps_the_state(cell):
    x, h = torch.zeros(ROWS, INPUTS).double(), torch.randn(ROWS, HIDDEN).double()
    equations = EQUATIONS[type(cell)]
    weights = equations.weights(cell)
    _, update = equations.split(weights.bias.detach()[None])
    shift = torch.zeros_like(weights.bias)
    equations.split(shift[None])[1].fill_(60)
    kept = equations.step(x, h, weights._replace(bias=weights.bias + shift))
    torch.testing.assert_close(kept, h)
    assert not torch.allclose(equations.step(x, h, weights), h) and update.shape[1] == HIDDEN
