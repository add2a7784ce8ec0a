"""The theorem of section 3.4 on random linear RNNs: equal to 1e-12 of the largest value, derivatives too."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.srnn import oracle
from tl_neuron_attr.srnn import SRNN, LinearRNN, from_linear_rnn

double = {"dtype": torch.float64}


def random_rnn(bias, seed, size=5):
    """A linear RNN that neither explodes nor forgets within the tests' lengths."""
    torch.manual_seed(seed)
    rnn = LinearRNN(3, size, bias=bias, **double)
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(0.98 * nn.init.orthogonal_(torch.empty(size, size, **double)))
    return rnn


def by_hand(rnn, x, h_0):
    """Eq. 26, a step at a time."""
    return torch.stack(
        [
            oracle.last_state(oracle.linear, rnn, list(sequence), None if h_0 is None else h_0[:, i])
            for i, sequence in enumerate(x)
        ]
    )


def relative(actual, expected):
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@settings(max_examples=60)
@given(
    factors=st.lists(st.integers(2, 5), max_size=4),
    first=st.integers(1, 6),
    bias=st.booleans(),
    started=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_values_and_gradients(factors, first, bias, started, seed):
    T = first * torch.Size(factors).numel()
    rnn = random_rnn(bias, seed)
    srnn = from_linear_rnn(rnn, factors, None, T)
    x = torch.randn(2, T, 3, **double, requires_grad=True)
    h_0 = torch.randn(1, 2, 5, **double, requires_grad=True) if started else None
    actual, expected = srnn(x, h_0=h_0)[0], by_hand(rnn, x, h_0)
    assert relative(actual, expected) < 1e-12
    weight = torch.randn_like(actual)
    lowest, bottom = rnn.weights(), srnn.levels[0].cell.weights()
    shared = [0, 2] if bias else [0]
    wanted = [x, *([h_0] if started else [])]
    found = torch.autograd.grad((actual * weight).sum(), [*wanted, *(bottom[i] for i in shared)])
    needed = torch.autograd.grad((expected * weight).sum(), [*wanted, *(lowest[i] for i in shared)])
    for a, e in zip(found, needed, strict=True):
        assert relative(a, e) < 1e-12


@pytest.mark.parametrize(
    ("n", "k", "first"), [(2, 1, 2), (3, 2, 3), (4, 2, 5), (2, 3, 7), (16, 1, 32), (8, 2, 8), (2, 8, 2)]
)
def test_the_recurrent_weights_gradient_is_that_of_its_powers(n, k, first):
    """The chain rule from W_p = W^(l_0 n^(p-1)) back to W."""
    rnn = random_rnn(True, n)
    T = first * n**k
    srnn = from_linear_rnn(rnn, n, k, T)
    x = torch.randn(2, T, 3, **double)
    W = rnn.weight_hh_l0
    expected = torch.autograd.grad(rnn(x)[1].sum(), W)[0]
    powers = [1, *(first * n ** (p - 1) for p in range(1, k + 1))]
    w = W.detach().requires_grad_()
    raised = [torch.linalg.matrix_power(w, power) for power in powers]
    through = torch.autograd.grad(srnn(x)[0].sum(), [level.cell.weight_hh_l0 for level in srnn.levels])
    actual = torch.autograd.grad(raised, w, through)[0]
    assert relative(actual, expected) < 1e-11


def test_the_paper_s_example():
    """T = 4, n = 2, k = 1: F = U x_4 + W U x_3 + W^2 U x_2 + W^3 U x_1."""
    rnn = random_rnn(False, 1)
    U, W = rnn.weight_ih_l0, rnn.weight_hh_l0
    x = torch.randn(1, 4, 3, **double)
    srnn = from_linear_rnn(rnn, 2, 1, 4)
    expected = sum(torch.linalg.matrix_power(W, 3 - t) @ U @ x[0, t] for t in range(4))
    torch.testing.assert_close(srnn(x)[0][0], expected, rtol=1e-13, atol=1e-14)
    W_0, W_1 = (level.cell.weight_hh_l0 for level in srnn.levels)
    U_0, U_1 = (level.cell.weight_ih_l0 for level in srnn.levels)
    assert torch.equal(W_0, W) and torch.equal(U_0, U) and torch.equal(U_1, torch.eye(5, **double))
    torch.testing.assert_close(W_1, W @ W)


def test_it_holds_at_other_lengths_that_fill_the_lower_levels():
    rnn = random_rnn(True, 2)
    srnn = from_linear_rnn(rnn, 3, 2, 18)
    for T in (6, 12, 18, 60):
        x = torch.randn(2, T, 3, **double)
        assert relative(srnn(x)[0], rnn(x)[1][0]) < 1e-12


def test_weights_are_copied():
    rnn = random_rnn(True, 3)
    srnn = from_linear_rnn(rnn, 2, 1, 4)
    before = srnn(torch.ones(1, 4, 3, **double))[0].detach()
    with torch.no_grad():
        rnn.weight_ih_l0.zero_()
    assert torch.equal(srnn(torch.ones(1, 4, 3, **double))[0], before)
    assert all(p.requires_grad for p in srnn.parameters())


def test_a_rectified_rnn_that_never_rectifies_is_linear():
    """The theorem through torch's own cells: weights and inputs that are not negative."""
    torch.manual_seed(4)
    rnn = LinearRNN(3, 4, bias=False, **double)
    with torch.no_grad():
        for p in rnn.parameters():
            p.copy_(torch.rand_like(p) / 3)
    linear = from_linear_rnn(rnn, 4, 2, 48)
    relu = SRNN(3, 4, 4, 2, cell=lambda *a, **o: nn.RNN(*a, nonlinearity="relu", **o), bias=False, **double)
    relu.load_state_dict(linear.state_dict())
    x = torch.rand(2, 48, 3, **double)
    assert relative(relu(x)[0], rnn(x)[1][0]) < 1e-12


def test_it_does_not_hold_for_a_gru():
    """Sigmoid gates are not linear, with or without a linear candidate: equal weights give another state."""
    torch.manual_seed(5)
    srnn = SRNN(3, 4, 2, 1, cell="keras_gru", **double)
    x = torch.randn(2, 8, 3, **double)
    assert relative(srnn(x)[0], srnn.levels[0].cell(x)[1][0]) > 0.1
