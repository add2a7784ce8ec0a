import math

import pytest
import torch
from hypothesis import given, settings

from tests import synthetic
from tests.numerics.test_topk import bounds_of, flat_scores, sizes
from tl_neuron_attr.numerics.bounds import psi_bounds, ranges, smallest_psi


@settings(max_examples=80)
@given(synthetic.seeds, synthetic.peaks, sizes)
def test_a_score_never_passes_its_bounds(seed, peak, size):
    increases, subs = synthetic.case(seed, peak=peak, size=size)
    scores, upper = flat_scores(increases, subs), bounds_of(increases, subs)
    lower = upper - torch.cat(psi_bounds(increases, subs), dim=1)
    assert (scores <= upper + 1e-9).all()
    assert (scores >= lower - 1e-9).all()


@pytest.mark.parametrize(
    ("length", "variance", "expected"),
    [
        (3.0, 1.0, 3.0),  # the largest value: a wide neuron
        (1.0, 1.0, 0.5),  # Hoeffding: all the mass at the ends of the range
        (1.0, 0.01, 0.01 * (math.e - 2)),  # Bennett: little variance within the range
    ],
)
def test_each_bound_is_taken_where_it_is_the_smallest(length, variance, expected):
    one = torch.tensor([[1.0]], dtype=torch.float64)
    assert smallest_psi(length * one, one, variance * one).item() == pytest.approx(expected)


@settings(max_examples=20)
@given(synthetic.seeds, synthetic.peaks)
def test_range_and_variance_are_those_of_the_unembedding_vectors(seed, peak):
    increases, _ = synthetic.case(seed, peak=peak)
    for each, (furthest, variance) in zip(increases, ranges(increases), strict=True):
        p, W_U = each.log_p().exp(), each.readout.W_U
        distance = (W_U.T[None] - (p @ W_U.T)[:, None]).norm(dim=-1) * each.readout.gain.abs()[:, None]
        torch.testing.assert_close(furthest, distance.amax(1), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(variance, (p * distance.square()).sum(1), atol=1e-9, rtol=1e-6)
