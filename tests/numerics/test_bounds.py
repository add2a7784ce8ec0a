import torch
from hypothesis import given, settings

from tests import synthetic
from tests.numerics.test_topk import bounds_of, flat_scores, sizes
from tl_neuron_attr.numerics.bounds import psi


@settings(max_examples=80)
@given(synthetic.seeds, synthetic.peaks, sizes)
def test_a_score_never_passes_its_bounds(seed, peak, size):
    increase, subs = synthetic.case(seed, peak=peak, size=size)
    scores, upper = flat_scores(increase, subs), bounds_of(increase, subs)
    lower = upper - torch.cat([psi(increase, s, i) for i, s in enumerate(subs)], dim=1)
    assert (scores <= upper + 1e-9).all()
    assert (scores >= lower - 1e-9).all()
