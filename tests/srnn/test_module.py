import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.srnn import oracle
from tl_neuron_attr.srnn import SRNN, KerasGRU, LinearRNN

CELLS = ("gru", "lstm", "rnn", "keras_gru")
ENGINES = ("auto", "library", "chunked", "fused")
double = {"dtype": torch.float64}


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def use(srnn, engine):
    for level in srnn.levels:
        level.engine = engine if engine != "fused" or level.has_fused else "library"
    return srnn


def by_hand(srnn, cell, x, h_0=None):
    """Every level's states and the last one for a batch, by the oracle."""
    first = srnn.slicing.levels(x.shape[1])[0][1]
    cells = [level.cell for level in srnn.levels]
    starts = [None] * len(x) if h_0 is None else h_0.unbind(1)
    found = [
        oracle.srnn(oracle.CELLS[cell], cells, sequence, (first, *srnn.slicing.factors), start)
        for sequence, start in zip(x, starts, strict=True)
    ]
    states = [torch.stack(level) for level in zip(*found, strict=True)]
    return states[-1][:, 0], states


@settings(max_examples=60)
@given(
    cell=st.sampled_from(CELLS),
    factors=st.lists(st.integers(2, 3), max_size=3),
    first=st.integers(1, 4),
    batch=st.integers(1, 3),
    engine=st.sampled_from(ENGINES),
    layers=st.integers(1, 2),
    bidirectional=st.booleans(),
    bias=st.booleans(),
    started=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equals_loops_over_slices_and_steps(
    cell, factors, first, batch, engine, layers, bidirectional, bias, started, seed
):
    torch.manual_seed(seed)
    options = {"num_layers": layers, "bidirectional": bidirectional, "bias": bias}
    srnn = use(SRNN(3, 4, n=factors, cell=cell, **options, **double), engine)
    x = torch.randn(batch, first * torch.Size(factors).numel(), 3, **double)
    h_0 = torch.randn(layers * (1 + bidirectional), batch, 4, **double) if started else None
    given_state = (h_0, torch.zeros_like(h_0)) if started and cell == "lstm" else h_0
    last, states = srnn(x, h_0=given_state)
    expected_last, expected = by_hand(srnn, cell, x, h_0)
    close(last, expected_last)
    for actual, wanted in zip(states, expected, strict=True):
        close(actual, wanted)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_equal_those_of_the_loops(cell, engine):
    torch.manual_seed(0)
    srnn = use(SRNN(3, 4, n=[3, 2], cell=cell, **double), engine)
    x = torch.randn(2, 12, 3, **double, requires_grad=True)
    wanted = [x, *srnn.parameters()]

    def loss(last, states):
        return last.pow(2).sum() + sum(s.sin().sum() for s in states)

    actual = torch.autograd.grad(loss(*srnn(x)), wanted)
    expected = torch.autograd.grad(loss(*by_hand(srnn, cell, x)), wanted)
    for a, e in zip(actual, expected, strict=True):
        close(a, e)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"num_layers": 2}])
def test_gradcheck(cell, options):
    torch.manual_seed(1)
    srnn = SRNN(2, 2, n=2, k=1, cell=cell, **options, **double)
    x = torch.randn(2, 4, 2, **double, requires_grad=True)
    names, values = zip(*srnn.named_parameters(), strict=True)

    def run(x, *values):
        return torch.func.functional_call(srnn, dict(zip(names, values, strict=True)), (x,))[0]

    assert torch.autograd.gradcheck(run, (x, *values))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2, "dropout": 0.5}])
def test_uncut_is_the_cell_bit_for_bit(cell, options):
    srnn = SRNN(3, 4, k=0, cell=cell, **options)
    module = srnn.levels[0].cell
    x = torch.randn(100, 9, 3, requires_grad=True)
    torch.manual_seed(5)
    last, states = srnn(x)
    torch.manual_seed(5)
    final = module(x)[1]
    h = final[0] if cell == "lstm" else final
    expected = torch.cat([h[-2], h[-1]], dim=1) if options else h[-1]
    assert torch.equal(last, expected) and torch.equal(states[0][:, 0], expected)
    inputs = [x, *module.parameters()]
    for a, e in zip(torch.autograd.grad(last.sum(), inputs), torch.autograd.grad(expected.sum(), inputs), strict=True):
        assert torch.equal(a, e)


def test_the_uncut_gru_is_torch_s_with_the_same_weights():
    gru = nn.GRU(3, 4, batch_first=True)
    srnn = SRNN(3, 4, k=0)
    srnn.levels[0].cell.load_state_dict(gru.state_dict())
    x = torch.randn(2, 9, 3)
    assert torch.equal(srnn(x)[0], gru(x)[1][0])


@pytest.mark.parametrize("cell", CELLS)
def test_a_step_moves_the_states_of_its_own_slices_only(cell):
    torch.manual_seed(2)
    srnn = SRNN(3, 4, n=2, k=2, cell=cell, **double)
    x = torch.randn(1, 12, 3, **double)
    changed = x.clone()
    changed[0, 7] += 1
    before, after = srnn(x)[1], srnn(changed)[1]
    moved = [(a - b).abs().amax(-1)[0].gt(0).tolist() for a, b in zip(after, before, strict=True)]
    assert moved == [[False, False, True, False], [False, True], [True]]


def test_a_slice_is_read_as_if_it_were_alone():
    srnn = SRNN(3, 4, n=2, k=2, **double)
    x = torch.randn(2, 12, 3, **double)
    alone = srnn.levels[0].cell(x[:, 3:6])[1][0]
    close(srnn(x)[1][0][:, 1], alone)


def test_a_contiguous_input_is_not_copied_and_a_level_is_called_once():
    srnn = SRNN(3, 4, n=2, k=3)
    seen = []
    for level in srnn.levels:
        level.register_forward_pre_hook(lambda level, args: seen.append(args[0]))
    x = torch.randn(5, 16, 3)
    srnn(x)
    assert [tuple(slices.shape) for slices in seen] == [(40, 2, 3), (20, 2, 4), (10, 2, 4), (5, 2, 4)]
    assert seen[0].data_ptr() == x.data_ptr()


@pytest.mark.parametrize("cell", ["lstm", "keras_gru"])
def test_a_cell_is_called_once_a_level(cell):
    srnn = SRNN(3, 4, n=2, k=2, cell=cell, num_layers=2)
    rows = []
    for level in srnn.levels:
        level.cell.register_forward_pre_hook(lambda cell, args: rows.append(len(args[0])))
    srnn(torch.randn(5, 8, 3))
    assert rows == [20, 10, 5]


def test_steps_first_is_the_transpose():
    torch.manual_seed(3)
    srnn = SRNN(3, 4, n=2, k=2, batch_first=False, **double)
    twin = SRNN(3, 4, n=2, k=2, **double)
    twin.load_state_dict(srnn.state_dict())
    x = torch.randn(5, 8, 3, **double)
    last, states = srnn(x.transpose(0, 1))
    expected_last, expected = twin(x)
    close(last, expected_last, 0)
    for s, e in zip(states, expected, strict=True):
        close(s, e.transpose(0, 1), 0)


def test_an_lstm_hands_up_its_output_and_starts_from_a_pair():
    torch.manual_seed(4)
    srnn = SRNN(3, 4, n=2, k=1, cell="lstm", **double)
    x, h, c = torch.randn(2, 6, 3, **double), torch.randn(1, 2, 4, **double), torch.randn(1, 2, 4, **double)
    lower = torch.stack([srnn.levels[0].cell(half)[1][0][0] for half in (x[:, :3], x[:, 3:])], dim=1)
    close(srnn(x, h_0=(h, c))[0], srnn.levels[1].cell(lower, (h, c))[1][0][0])


def test_a_factory_makes_the_cells():
    relu = SRNN(3, 4, n=2, k=1, cell=lambda *a, **o: nn.RNN(*a, nonlinearity="relu", **o), **double)
    x = torch.randn(2, 6, 3, **double)
    assert all(level.cell.nonlinearity == "relu" for level in relu.levels)
    assert (relu(x)[0] >= 0).all()
    assert isinstance(SRNN(3, 4, cell=LinearRNN).levels[2].cell, LinearRNN)


def test_dropout_acts_on_what_goes_up_in_training_only():
    srnn = SRNN(3, 4, n=2, k=1, dropout=0.5)
    handed_up = []
    srnn.levels[1].register_forward_pre_hook(lambda level, args: handed_up.append(args[0]))
    x = torch.randn(500, 8, 3)
    states = srnn(x)[1][0]
    dropped = handed_up[0] == 0
    assert 0.45 < dropped.float().mean() < 0.55
    torch.testing.assert_close(handed_up[0][~dropped], 2 * states[~dropped])
    srnn.eval()
    assert torch.equal(srnn(x)[1][0], handed_up[1])


@pytest.mark.parametrize("cell", CELLS)
def test_state_dict_deepcopy_and_pickle(cell):
    srnn = SRNN(3, 4, n=2, k=1, cell=cell, slice_len=3)
    other = SRNN(3, 4, n=2, k=1, cell=cell, slice_len=3)
    other.load_state_dict(srnn.state_dict())
    x = torch.randn(2, 5, 3)
    expected = srnn(x)[0]
    for twin in (other, copy.deepcopy(srnn), pickle.loads(pickle.dumps(srnn))):
        assert torch.equal(twin(x)[0], expected)
    assert list(srnn.state_dict())[:2] == ["levels.0.cell.weight_ih_l0", "levels.0.cell.weight_hh_l0"]


@pytest.mark.parametrize("cell", CELLS)
def test_autocast_is_close_to_full_precision(cell):
    torch.manual_seed(0)
    srnn = SRNN(8, 8, n=2, k=2, cell=cell)
    x = torch.randn(4, 16, 8)
    expected = srnn(x)[0]
    has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # without AVX-512, torch's own LSTM fails
    if cell == "lstm" and not has_bfloat16:
        with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(RuntimeError, match="primitive descriptor"):
            nn.LSTM(8, 8)(x)
        return
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = srnn(x)[0]
    actual.sum().backward()
    assert 0 < (actual - expected).abs().max() < 0.05
    assert all(p.grad is not None and p.grad.isfinite().all() for p in srnn.parameters())


@pytest.mark.parametrize("cell", CELLS)
def test_a_bfloat16_module_is_close_to_full_precision(cell):
    torch.manual_seed(0)
    srnn = SRNN(8, 8, n=2, k=2, cell=cell)
    x = torch.randn(100, 16, 8)
    expected = srnn(x)[0]
    actual = srnn.to(torch.bfloat16)(x.bfloat16())[0]
    assert actual.dtype == torch.bfloat16
    assert (actual - expected).abs().max() < 0.05


def test_levels_have_weights_of_their_own_and_the_paper_s_number_of_them():
    srnn = SRNN(200, 50, 8, 2, cell="keras_gru")
    per_level = [sum(p.numel() for p in level.parameters()) for level in srnn.levels]
    assert per_level == [3 * (200 * 50 + 50 * 50 + 50)] + 2 * [3 * (50 * 50 + 50 * 50 + 50)]


def test_printed_it_says_how_it_slices():
    assert "SRNN(\n  3, 4, n=[8, 8], slice_len=2" in repr(SRNN(3, 4, slice_len=2))
    assert isinstance(SRNN(3, 4, cell="keras_gru").levels[0].cell, KerasGRU)
