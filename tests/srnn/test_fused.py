"""The fused levels against the library's cell, to 1e-6 in float32, and against numerical derivatives."""

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tl_neuron_attr.srnn import KerasGRU, fused
from tl_neuron_attr.srnn.fused import last_states
from tl_neuron_attr.srnn.slicing import padding_mask


def make(kind, inputs=3, hidden=4, bias=True, dtype=torch.float64):
    cell = (nn.GRU if kind == "gru" else KerasGRU)(inputs, hidden, bias=bias, batch_first=True, dtype=dtype)
    for parameter in cell.parameters():
        nn.init.uniform_(parameter, -0.7, 0.7)
    return cell


def library(cell, x, h_0=None, steps=None):
    """The library's cell, row by row where rows have different lengths."""
    start = None if h_0 is None else h_0[None]
    if steps is None:
        return cell(x, start)[1][0]
    rows = [
        cell(x[i : i + 1, :s], None if h_0 is None else start[:, i : i + 1])[1][0, 0] if s else x.new_zeros(4)
        for i, s in enumerate(steps.tolist())
    ]
    return torch.stack(rows)


@settings(max_examples=80)
@given(
    kind=st.sampled_from(["gru", "keras_gru"]),
    rows=st.integers(1, 20),
    chunk=st.sampled_from([1, 7, 20]),
    length=st.integers(1, 5),
    bias=st.booleans(),
    started=st.booleans(),
    ragged=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_values_and_gradients_are_the_library_s(kind, rows, chunk, length, bias, started, ragged, seed):
    torch.manual_seed(seed)
    cell = make(kind, bias=bias)
    x = torch.randn(rows, length, 3, dtype=torch.float64, requires_grad=True)
    h_0 = torch.randn(rows, 4, dtype=torch.float64, requires_grad=True) if started else None
    steps = torch.randint(1, length + 1, (rows,)) if ragged else None
    mask = None if steps is None else padding_mask(steps, length)
    expected = library(cell, x, h_0, steps)
    wanted = [x, *cell.parameters(), *([h_0] if started else [])]
    weight = torch.randn_like(expected)
    with mock.patch.object(fused, "_chunk_rows", return_value=chunk):
        actual = last_states(cell, x, h_0, mask)
        with torch.no_grad():
            unrecorded = last_states(cell, x, h_0, mask)
        gradients = torch.autograd.grad((actual * weight).sum(), wanted)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(unrecorded, actual, rtol=0, atol=1e-15)
    for a, e in zip(gradients, torch.autograd.grad((expected * weight).sum(), wanted), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", ["gru", "keras_gru"])
@pytest.mark.parametrize(("rows", "length"), [(1000, 8), (7, 64), (300, 2)])
def test_float32_agrees_to_a_millionth(kind, rows, length):
    torch.manual_seed(0)
    cell = (nn.GRU(20, 50, batch_first=True) if kind == "gru" else KerasGRU(20, 50)).float()
    x = torch.randn(rows, length, 20, requires_grad=True)
    actual, expected = last_states(cell, x), cell(x)[1][0]
    scale = expected.abs().max()
    assert (actual - expected).abs().max() <= 1e-6 * scale.clamp(min=1)
    wanted = [x, *cell.parameters()]
    weight = torch.randn_like(actual) / rows
    for a, e in zip(
        torch.autograd.grad((actual * weight).sum(), wanted),
        torch.autograd.grad((expected * weight).sum(), wanted),
        strict=True,
    ):
        assert (a - e).abs().max() <= 2e-6 * e.abs().max().clamp(min=1)


@pytest.mark.parametrize("kind", ["gru", "keras_gru"])
@pytest.mark.parametrize("bias", [True, False])
def test_first_and_second_derivatives(kind, bias):
    torch.manual_seed(1)
    cell = make(kind, 2, 2, bias=bias)
    x = torch.randn(3, 3, 2, dtype=torch.float64, requires_grad=True)
    h_0 = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    mask = padding_mask(torch.tensor([3, 1, 0]), 3)
    names, values = zip(*cell.named_parameters(), strict=True)

    def run(x, h_0, *values):
        twin = make(kind, 2, 2, bias=bias)
        for name, value in zip(names, values, strict=True):
            delattr(twin, name)
            setattr(twin, name, value)
        return last_states(twin, x, h_0, mask)

    assert torch.autograd.gradcheck(run, (x, h_0, *values))
    assert torch.autograd.gradgradcheck(run, (x, h_0, *values))


@pytest.mark.parametrize("kind", ["gru", "keras_gru"])
def test_gradients_are_the_same_with_a_graph_of_their_own(kind):
    torch.manual_seed(2)
    cell = make(kind)
    x = torch.randn(3, 4, 3, dtype=torch.float64, requires_grad=True)
    h_0 = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    loss = last_states(cell, x, h_0, padding_mask(torch.tensor([4, 1, 0]), 4)).sin().sum()
    wanted = [x, h_0, *cell.parameters()]
    plain = torch.autograd.grad(loss, wanted, retain_graph=True)
    for a, e in zip(torch.autograd.grad(loss, wanted, create_graph=True), plain, strict=True):
        assert a.requires_grad
        torch.testing.assert_close(a, e, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", ["gru", "keras_gru"])
def test_the_backward_pass_can_be_run_again(kind):
    cell, x = make(kind), torch.randn(5, 4, 3, dtype=torch.float64, requires_grad=True)
    loss = last_states(cell, x).sin().sum()
    first = torch.autograd.grad(loss, [x, *cell.parameters()], retain_graph=True)
    second = torch.autograd.grad(loss, [x, *cell.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", ["gru", "keras_gru"])
@pytest.mark.parametrize("frozen", ["weight_ih_l0", "weight_hh_l0", "input"])
def test_what_is_frozen_gets_no_gradient_and_the_rest_is_unchanged(kind, frozen):
    cell = make(kind)
    x = torch.randn(5, 4, 3, dtype=torch.float64, requires_grad=True)
    leaves = {"input": x, **dict(cell.named_parameters())}
    expected = dict(zip(leaves, torch.autograd.grad(last_states(cell, x).sum(), list(leaves.values())), strict=True))
    leaves[frozen].requires_grad_(False)
    last_states(cell, x).sum().backward()
    assert leaves[frozen].grad is None
    for name in leaves.keys() - {frozen}:
        torch.testing.assert_close(leaves[name].grad, expected[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["gru", "keras_gru"])
def test_strides_do_not_matter(kind):
    cell = make(kind)
    x = torch.randn(3, 4, 300, dtype=torch.float64, requires_grad=True)
    strided = x.permute(2, 1, 0)
    a, e = last_states(cell, strided), last_states(cell, strided.contiguous())
    assert torch.equal(a, e)
    g = torch.randn(4, 300, dtype=torch.float64).t()
    assert torch.equal(*(torch.autograd.grad(y, x, grad)[0] for y, grad in ((a, g), (e, g.contiguous()))))


@pytest.mark.parametrize("kind", ["gru", "keras_gru"])
def test_the_input_is_left_as_it_was(kind):
    cell, x, h_0 = make(kind), torch.randn(5, 4, 3, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    before = x.clone(), h_0.clone()
    last_states(cell, x.requires_grad_(), h_0.requires_grad_()).sum().backward()
    assert torch.equal(x, before[0]) and torch.equal(h_0, before[1])
