import torch
from hypothesis import given, settings

from tests import synthetic
from tests.numerics.test_topk import bounds_of, flat_scores, sizes
from tl_neuron_attr.numerics.bounds import psi_bounds


@settings(max_examples=80)
@given(synthetic.seeds, synthetic.peaks, sizes)
def test_a_score_never_passes_its_bounds(seed, peak, size):
    increases, subs = synthetic.case(seed, peak=peak, size=size)
    scores, upper = flat_scores(increases, subs), bounds_of(increases, subs)
    lower = upper - torch.cat(psi_bounds(increases, subs), dim=1)
    assert (scores <= upper + 1e-9).all()
    assert (scores >= lower - 1e-9).all()
