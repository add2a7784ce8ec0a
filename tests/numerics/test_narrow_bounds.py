from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import synthetic
from tests.numerics.test_topk import bounds_of, flat_scores, sizes
from tl_neuron_attr.numerics import narrow_bounds
from tl_neuron_attr.numerics.bounds import psi_bounds
from tl_neuron_attr.numerics.increase import Increase
from tl_neuron_attr.numerics.narrow_bounds import NarrowBounds
from tl_neuron_attr.numerics.topk import certified_topk


@pytest.fixture(autouse=True)
def however_few(monkeypatch):
    monkeypatch.setattr(narrow_bounds, "_FEW", 1)


def psi_of_all(increases, subs):
    n = sum(s.width * s.sources for s in subs)
    return torch.stack([NarrowBounds(increases, subs).psi(row, torch.arange(n)) for row in range(2)])


@pytest.mark.parametrize("share", [64, 4, 1])  # of a small vocabulary: one token, a quarter, all
def test_a_score_never_passes_its_narrow_bound(share, monkeypatch):
    monkeypatch.setattr(narrow_bounds, "SHARE", share)

    @settings(max_examples=40)
    @given(synthetic.seeds, synthetic.peaks, sizes)
    def check(seed, peak, size):
        increases, subs = synthetic.case(seed, peak=peak, size=size)
        psi = bounds_of(increases, subs) - flat_scores(increases, subs)
        assert (psi_of_all(increases, subs) >= psi - 1e-9).all()

    check()


def test_with_every_token_summed_the_bound_is_psi_itself(monkeypatch):
    monkeypatch.setattr(narrow_bounds, "SHARE", 1)
    increases, subs = synthetic.case(3, size=0.3)
    psi = bounds_of(increases, subs) - flat_scores(increases, subs)
    torch.testing.assert_close(psi_of_all(increases, subs), psi, atol=1e-9, rtol=0)


def test_on_a_large_vocabulary_bounds_are_narrower_and_hold_in_float32():
    increase, g = synthetic.large_vocabulary()
    sub = synthetic.sublayer(g, 4, 64, "mlp", 0, 0.3, ties=False, width=40)
    sub = replace(sub, **{n: getattr(sub, n).float() for n in ("base", "out", "bias", "directions", "coefficients")})
    flat = torch.arange(40)
    wide = psi_bounds([increase], [sub])[0]
    for row in range(4):
        psi = NarrowBounds([increase], [sub]).psi(row, flat)
        alone = increase.select(torch.tensor([row]))
        in_float64 = Increase(alone.readout, alone.base, alone.target)
        vectors = sub.writes(torch.full_like(flat, row), flat, torch.zeros_like(flat))
        exact = synthetic.by_log_softmax(in_float64, 0, vectors)
        jensen = bounds_of([increase], [sub])[row]
        assert (jensen - psi <= exact + 1e-5).all()
        assert psi.median() < wide[row].median() / 4


@settings(max_examples=60)
@given(synthetic.seeds, synthetic.peaks, sizes, st.booleans(), st.integers(1, 12))
def test_a_search_that_narrows_every_bound_equals_sorting_every_score(seed, peak, size, ties, k):
    increases, subs = synthetic.case(seed, peak=peak, size=size, ties=ties)
    scores = flat_scores(increases, subs)
    k = min(k, scores.shape[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NarrowBounds, "pays", 0)
        top = certified_topk(increases, subs, k, largest=False)
    expected = scores.sort(dim=1, stable=True)
    torch.testing.assert_close(top.score, expected.values[:, :k], atol=1e-10, rtol=0)
    torch.testing.assert_close(scores.gather(1, top.flat), top.score, atol=1e-10, rtol=0)
