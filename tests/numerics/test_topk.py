from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import synthetic
from tl_neuron_attr.numerics.topk import FEWEST, _Walk, certified_topk, gradients_of

sizes = st.sampled_from([1e-3, 0.3, 3.0])


def bounds_of(increases, subs):
    gradients = gradients_of(increases)
    return torch.cat([s.project_onto(g).flatten(1) for s, g in zip(subs, gradients, strict=True)], dim=1)


def flat_scores(increases, subs):
    return torch.cat([s.flatten(1) for s in synthetic.brute_force(increases, subs)], dim=1)


@settings(max_examples=150)
@given(synthetic.seeds, synthetic.peaks, sizes, st.booleans(), st.booleans(), st.integers(1, 60))
def test_equals_sorting_every_score(seed, peak, size, ties, largest, k):
    increases, subs = synthetic.case(seed, peak=peak, size=size, ties=ties)
    scores = flat_scores(increases, subs)
    k = min(k, scores.shape[1])
    top = certified_topk(increases, subs, k, largest=largest)
    expected = scores.sort(dim=1, descending=largest, stable=True)
    torch.testing.assert_close(top.score, expected.values[:, :k], atol=1e-10, rtol=0)
    torch.testing.assert_close(scores.gather(1, top.flat), top.score, atol=1e-10, rtol=0)
    assert all(len(row.unique()) == k for row in top.flat)


def soft_cap(logits):
    return 3 * (logits / 3).tanh()


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("capped", [False, True])
@pytest.mark.parametrize("against", [False, True])
def test_a_contrast_and_capped_logits_are_ranked_by_exact_scores_too(largest, capped, against):
    increases, subs = synthetic.case(5, size=0.5)
    readout = replace(increases[0].readout, transform=soft_cap if capped else None)
    contrast = (increases[0].target + 1) % readout.d_vocab if against else None
    increases = [replace(each, readout=readout, contrast=contrast, known={}) for each in increases]
    scores = flat_scores(increases, subs)
    top = certified_topk(increases, subs, 7, largest=largest)
    expected = scores.sort(dim=1, descending=largest, stable=True)
    torch.testing.assert_close(top.score, expected.values[:, :7], atol=1e-10, rtol=0)
    torch.testing.assert_close(scores.gather(1, top.flat), top.score, atol=1e-10, rtol=0)
    if capped or against:  # no search: all are known
        assert top.evaluated.tolist() == [scores.shape[1]] * 2


@settings(max_examples=30)
@given(synthetic.seeds)
def test_exactly_equal_scores_are_ordered_by_place(seed):
    increases, subs = synthetic.case(seed, size=0.3, ties=True)
    top = certified_topk(increases, subs, 10)
    for flat, score in zip(top.flat, top.score, strict=True):
        tied = score.diff() == 0
        assert (flat.diff()[tied] > 0).all()


@settings(max_examples=30)
@given(synthetic.seeds)
def test_permuted_neurons_permute_the_result(seed):
    increases, subs = synthetic.case(seed)
    order = [torch.randperm(s.width) for s in subs]
    permuted = [
        replace(s, directions=s.directions[o], coefficients=s.coefficients[:, o])
        for s, o in zip(subs, order, strict=True)
    ]
    tops = [certified_topk(increases, s, 8).score for s in (subs, permuted)]
    torch.testing.assert_close(*tops, atol=1e-12, rtol=0)


def test_silent_neurons_are_never_evaluated():
    increases, subs = synthetic.case(3)
    silent = [replace(s, coefficients=torch.zeros_like(s.coefficients)) for s in subs]
    top = certified_topk(increases, silent, 5)
    assert top.evaluated.tolist() == [0, 0]
    assert top.score.eq(0).all()
    assert top.flat.tolist() == [[0, 1, 2, 3, 4]] * 2


def test_few_neurons_are_evaluated_where_bounds_are_tight():
    increases, subs = synthetic.case(11, size=1e-3)
    everything = sum(s.width * s.sources for s in subs)
    top = certified_topk(increases, subs, 1)
    assert top.evaluated.max() <= 3 < everything


def test_a_search_goes_on_beyond_the_neurons_ranked_at_first():
    """The best of 2,000 strong neurons, whose bounds mislead, has only the 227th bound."""
    increases, _ = synthetic.case(10, batch=1, peak=3.0)
    g = torch.Generator().manual_seed(10)
    wide = synthetic.sublayer(g, 1, increases[0].base.shape[1], "mlp", 0, 4.0, False, width=2000)
    scores = synthetic.brute_force(increases[:1], [wide])[0].flatten()
    bounds = wide.project_onto(gradients_of(increases[:1])[0]).flatten()
    assert (bounds > bounds[scores.argmax()]).sum() > 4 * (1 + FEWEST)
    top = certified_topk(increases[:1], [wide], 1)
    assert int(top.flat) == int(scores.argmax())
    assert top.score.item() == pytest.approx(scores.max().item())


def test_a_score_within_the_rounding_of_the_next_bound_is_not_certain():
    eps = torch.finfo(torch.float64).eps
    for ahead, certain in ((100 - 400 * eps, False), (99.9, True)):
        bounds = torch.tensor([100.0, 100.0, 100.0, ahead], dtype=torch.float64)
        walk = _Walk.start(bounds, torch.zeros(4, dtype=torch.bool), 1, 0)
        assert not walk.certified()
        assert walk.next().sort().values.tolist() == [0, 1, 2]
        walk.take(torch.tensor([100.0, 99.0, 99.0], dtype=torch.float64), torch.zeros(3, 0, dtype=torch.long))
        assert walk.certified() == certain
