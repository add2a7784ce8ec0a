import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tl_neuron_attr.srnn import sequential_steps, time_ratio
from tl_neuron_attr.srnn.slicing import Slicing, as_factors, fold, padding_mask


@pytest.mark.parametrize(
    ("T", "n", "k", "first"),
    [(8, 2, 2, 2), (512, 16, 1, 32), (512, 8, 2, 8), (512, 4, 3, 8), (512, 2, 8, 2), (256, 2, 7, 2)],
)
def test_lengths_and_numbers_of_slices_are_the_paper_s(T, n, k, first):
    """Eq. 10-13 and the sizes of its experiments."""
    assert Slicing((n,) * k).levels(T) == ((n**k, first), *((n ** (k - p), n) for p in range(1, k + 1)))


@pytest.mark.parametrize(("T", "k", "speedup"), [(512, 2, 21.3), (4096, 3, 128.0), (32768, 4, 819.2)])
def test_the_ratio_of_times_is_the_paper_s(T, k, speedup):
    """Eq. 23 at the sizes of Table 3."""
    assert 1 / time_ratio(T, (8,) * k) == pytest.approx(speedup, abs=0.05)


@given(st.integers(1, 5000), st.lists(st.integers(2, 9), max_size=4))
def test_steps_are_those_of_the_longest_way_through_the_levels(T, factors):
    """Eq. 22: a slice of every level, one after another, where the levels are full."""
    T *= torch.Size(factors).numel()
    assert sequential_steps(T, factors) == sum(length for _, length in Slicing(tuple(factors)).levels(T))


@given(st.integers(1, 300), st.lists(st.integers(2, 5), min_size=1, max_size=4), st.integers(1, 9))
def test_slices_of_fixed_length_cover_the_sequence_and_no_more(T, factors, slice_len):
    slicing, steps = Slicing(tuple(factors), slice_len), T
    for slices, length in slicing.levels(T):
        assert (slices - 1) * length < steps <= slices * length
        steps = slices
    assert steps == 1


@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.integers(1, 5))
def test_folding_keeps_the_steps_that_count_in_order(counts, length):
    T = max(counts)
    slices = -(-T // length)
    x = torch.arange(1, len(counts) * T + 1).reshape(len(counts), T, 1).float()
    rows, steps = fold(x, torch.tensor(counts), slices, length)
    kept = rows[~padding_mask(steps, length)].flatten().tolist()
    assert kept == [i * T + t + 1 for i, count in enumerate(counts) for t in range(count)]


def test_folding_is_a_view_where_nothing_is_missing():
    x = torch.zeros(2, 12, 3)
    rows, steps = fold(x, None, 4, 3)
    assert rows.data_ptr() == x.data_ptr() and steps is None


def test_n_is_a_factor_or_a_list_of_factors():
    assert as_factors(8, None) == (8, 8)
    assert as_factors([4, 2], None) == as_factors((4, 2), 2) == (4, 2)
    assert as_factors(5, 0) == as_factors([], None) == ()
