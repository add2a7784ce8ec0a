import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.srnn import oracle
from tl_neuron_attr.srnn import KerasGRU, LinearRNN
from tl_neuron_attr.srnn.cells import factory

CELLS = [(KerasGRU, oracle.keras_gru), (LinearRNN, oracle.linear)]


@settings(max_examples=40)
@given(
    kind=st.sampled_from(CELLS),
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    bias=st.booleans(),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
)
def test_rows_of_any_length_equal_loops_over_their_steps(kind, layers, bidirectional, bias, lengths, seed):
    torch.manual_seed(seed)
    make, step = kind
    cell = make(3, 4, layers, bias, bidirectional=bidirectional, dtype=torch.float64)
    if bias:
        torch.nn.init.normal_(cell.bias_l0)
    x = torch.randn(len(lengths), 6, 3, dtype=torch.float64)
    h_0 = torch.randn(layers * cell.directions, len(lengths), 4, dtype=torch.float64)
    output, final = cell(x, h_0, steps=torch.tensor(lengths))
    for row, length in enumerate(lengths):
        expected = oracle.last_state(step, cell, list(x[row, :length]), h_0[:, row])
        last = final[-cell.directions :, row].flatten()
        torch.testing.assert_close(last, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(output[row, length - 1, :4], expected[:4], rtol=0, atol=1e-12)
        torch.testing.assert_close(output[row, 0, 4:], expected[4:], rtol=0, atol=1e-12)


def test_the_output_is_the_state_of_every_step():
    cell = KerasGRU(3, 4, dtype=torch.float64)
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    output, _ = cell(x)
    for t in range(5):
        torch.testing.assert_close(output[:, t], cell(x[:, : t + 1])[1][0], rtol=0, atol=1e-12)


def test_dropout_acts_between_layers_in_training_only():
    cell = KerasGRU(3, 4, num_layers=2, dropout=1.0)
    x = torch.randn(2, 5, 3)
    torch.nn.init.ones_(cell.bias_l1)
    first = cell(x)[1]
    assert torch.equal(first, cell(-x)[1]) is False and torch.equal(first[1], cell(-x)[1][1])
    cell.eval()
    assert not torch.equal(cell(x)[1][1], cell(-x)[1][1])


def test_keras_gru_starts_as_keras_starts_it():
    cell = KerasGRU(200, 50)
    bound = (6 / (200 + 150)) ** 0.5
    assert 0.95 * bound < cell.weight_ih_l0.abs().max() <= bound
    torch.testing.assert_close(cell.weight_hh_l0.T @ cell.weight_hh_l0, torch.eye(50), rtol=0, atol=1e-5)
    assert cell.bias_l0.eq(0).all()


def test_the_candidate_is_linear():
    """Twice the candidate's weights, twice the state: a tanh would not do that."""
    cell = KerasGRU(3, 4, dtype=torch.float64)
    x = torch.randn(1, 1, 3, dtype=torch.float64)
    once = cell(x)[1]
    with torch.no_grad():
        cell.weight_ih_l0[8:] *= 1e3
    torch.testing.assert_close(cell(x)[1], 1e3 * once, rtol=1e-12, atol=0)


@pytest.mark.usefixtures("as_installed")
def test_a_cell_is_a_known_name_or_a_factory():
    assert factory("lstm") is torch.nn.LSTM and factory(torch.nn.GRU) is torch.nn.GRU
    with pytest.raises(ValueError, match=r"cell must be one of 'gru', .* got 'mamba'"):
        factory("mamba")
    with pytest.raises(TypeError, match=r"cell must be a name or a factory called as torch.nn.GRU is, got 3"):
        factory(3)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"input_size": 0}, ValueError, "input_size must be at least 1, got 0"),
        ({"hidden_size": 2.5}, TypeError, "hidden_size must be an integer, got 2.5"),
        ({"num_layers": -1}, ValueError, "num_layers must be at least 1, got -1"),
        ({"batch_first": False}, ValueError, "batch_first must be True"),
    ],
)
@pytest.mark.parametrize("make", [KerasGRU, LinearRNN])
@pytest.mark.usefixtures("as_installed")
def test_bad_arguments_are_named(make, options, error, words):
    with pytest.raises(error, match=words):
        make(**{"input_size": 3, "hidden_size": 4} | options)
