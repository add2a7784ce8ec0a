"""Sequences of different lengths: with ``slice_len``, each is read as if it were alone; padding as the paper has it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_sequence, pad_sequence

from tests.srnn import oracle
from tests.srnn.test_module import CELLS, ENGINES, by_hand, close, double, use
from tl_neuron_attr.srnn import SRNN

batches = st.lists(st.integers(1, 17), min_size=1, max_size=4)


@settings(max_examples=80)
@given(
    cell=st.sampled_from(CELLS),
    engine=st.sampled_from(ENGINES),
    factors=st.lists(st.integers(2, 3), min_size=1, max_size=2),
    slice_len=st.integers(1, 4),
    lengths=batches,
    extra=st.integers(0, 9),
    bidirectional=st.booleans(),
    layers=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
def test_a_sequence_is_read_as_if_it_were_alone(
    cell, engine, factors, slice_len, lengths, extra, bidirectional, layers, seed
):
    torch.manual_seed(seed)
    options = {"bidirectional": bidirectional, "num_layers": layers, "slice_len": slice_len}
    srnn = use(SRNN(3, 4, n=factors, cell=cell, **options, **double), engine)
    x = torch.randn(len(lengths), max(lengths) + extra, 3, **double)
    last, states = srnn(x, lengths=torch.tensor(lengths))
    for i, length in enumerate(lengths):
        expected_last, expected = by_hand(srnn, cell, x[i : i + 1, :length])
        close(last[i : i + 1], expected_last)
        close(srnn(x[i : i + 1, :length])[0], expected_last)
        for state, wanted in zip(states, expected, strict=True):
            close(state[i, : wanted.shape[1]], wanted[0])
            assert state[i, wanted.shape[1] :].eq(0).all()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("garbage", [1e300, float("nan"), float("inf")])
def test_what_follows_a_sequence_changes_no_bit_of_values_or_gradients(cell, engine, garbage):
    torch.manual_seed(0)
    srnn = use(SRNN(3, 4, n=2, k=2, cell=cell, slice_len=3, **double), engine)
    lengths = torch.tensor([11, 2, 7])
    beyond = torch.arange(12) >= lengths[:, None]
    x = torch.randn(3, 12, 3, **double)
    found = []
    for filler in (0.0, garbage):
        filled = x.masked_fill(beyond[..., None], filler).requires_grad_()
        last, states = srnn(filled, lengths=lengths)
        loss = last.pow(2).sum() + sum(s.sin().sum() for s in states)
        found.append([last, *torch.autograd.grad(loss, [filled, *srnn.parameters()])])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert found[1][1][beyond].eq(0).all()


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_through_lengths_equal_those_of_the_loops(cell):
    torch.manual_seed(1)
    srnn = SRNN(3, 4, n=2, k=2, cell=cell, slice_len=3, **double)
    x, lengths = torch.randn(3, 14, 3, **double, requires_grad=True), [14, 4, 9]
    wanted = [x, *srnn.parameters()]
    actual = torch.autograd.grad(srnn(x, lengths=torch.tensor(lengths))[0].pow(2).sum(), wanted)
    alone = [by_hand(srnn, cell, x[i : i + 1, :length])[0].pow(2).sum() for i, length in enumerate(lengths)]
    for a, e in zip(actual, torch.autograd.grad(sum(alone), wanted), strict=True):
        close(a, e)


def test_the_top_level_reads_as_many_states_as_there_are():
    """A sequence of more than slice_len * n^k steps is read on, not refused or cut."""
    srnn = SRNN(3, 4, n=2, k=2, slice_len=2, **double)
    x = torch.randn(1, 50, 3, **double)
    last, states = srnn(x)
    assert [s.shape[1] for s in states] == [25, 13, 1]
    close(last, by_hand(srnn, "gru", x)[0])


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"batch_first": False}])
def test_a_packed_sequence_is_its_sequences(options):
    torch.manual_seed(2)
    srnn = SRNN(3, 4, n=2, k=2, slice_len=2, **options, **double)
    sequences = [torch.randn(length, 3, **double) for length in (3, 9, 5)]
    last, states = srnn(pack_sequence(sequences, enforce_sorted=False))
    padded = pad_sequence(sequences, batch_first=srnn.batch_first)
    expected_last, expected = srnn(padded, lengths=torch.tensor([3, 9, 5]))
    close(last, expected_last, 0)
    for s, e in zip(states, expected, strict=True):
        close(s, e, 0)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}])
def test_uncut_lengths_are_those_of_a_packed_sequence(cell, options):
    srnn = SRNN(3, 4, k=0, cell=cell, **options, **double)
    x, lengths = torch.randn(3, 6, 3, **double), [6, 1, 4]
    last = srnn(x, lengths=torch.tensor(lengths))[0]
    for i, length in enumerate(lengths):
        close(last[i], oracle.last_state(oracle.CELLS[cell], srnn.levels[0].cell, list(x[i, :length])))


def test_without_slice_len_the_result_depends_on_the_batch_and_a_warning_says_so():
    torch.manual_seed(3)
    srnn = SRNN(3, 4, n=2, k=1, **double)
    x = torch.randn(1, 12, 3, **double)
    with pytest.warns(UserWarning, match=r"12 steps of this batch make slices of 6 steps.* SRNN\(..., slice_len=6\)"):
        longer = srnn(x, lengths=torch.tensor([8]))[0]
    alone = srnn(x[:, :8])[0]
    assert (longer - alone).abs().max() > 1e-3
    step = oracle.CELLS["gru"]
    cells = [level.cell for level in srnn.levels]
    close(longer[0], oracle.srnn(step, cells, x[0, :8], (6, 2))[-1][0])


@pytest.mark.filterwarnings("error")
def test_no_warning_where_nothing_is_wrong():
    SRNN(3, 4, n=2, k=1, slice_len=2)(torch.randn(1, 5, 3), lengths=torch.tensor([3]))
    SRNN(3, 4, k=0)(torch.randn(1, 5, 3), lengths=torch.tensor([3]))
    SRNN(3, 4, n=2, k=1, dropout=0.5)(torch.randn(1, 4, 3))


@pytest.mark.parametrize("T", [1, 9, 12])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_padding_is_zeros_that_are_read(T, padding):
    torch.manual_seed(4)
    srnn = SRNN(3, 4, n=2, k=2, padding=padding, **double)
    x = torch.randn(2, T, 3, **double)
    zeros = torch.zeros(2, -T % 4, 3, **double)
    filled = torch.cat([zeros, x] if padding == "left" else [x, zeros], dim=1)
    close(srnn(x)[0], by_hand(srnn, "gru", filled)[0])


@pytest.mark.parametrize("length", [6, 7])
def test_right_padding_after_lengths_is_not_read(length):
    srnn = SRNN(3, 4, n=2, k=1, padding="right", **double)
    x = torch.randn(1, 7, 3, **double)
    with pytest.warns(UserWarning, match="slices of 4 steps"):
        last = srnn(x, lengths=torch.tensor([length]))[0]
    close(last[0], oracle.srnn(oracle.gru, [level.cell for level in srnn.levels], x[0, :length], (4, 2))[-1][0])
