from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import synthetic
from tl_neuron_attr.numerics.answer_sums import AnswerSums
from tl_neuron_attr.numerics.bounded_walk import FEWEST
from tl_neuron_attr.numerics.topk import certified_topk, gradients_of

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


SUMS = {
    "an answer of three tokens, one of two": ([0, 0, 0, 1, 1], [0, 1], [1, 1]),
    "an answer against another": ([0, 0, 0, 1, 1], [0, 0], [1, -1]),
    "one of three answers": ([0, 0, 1, 1, 2], [0, 0, 0], [1, 1, 1]),
    "one of two answers against one of two, in two prompts": ([0, 1, 2, 3, 4], [0, 0, 0, 0, 1], [1, 1, -1, -1, 1]),
}


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("capped", [False, True])
@pytest.mark.parametrize("name", SUMS)
@settings(max_examples=15)
@given(seed=synthetic.seeds, size=sizes, k=st.integers(1, 20))
def test_the_best_over_several_places_are_those_of_every_score_added_up(name, capped, largest, seed, size, k):
    answer, result, sign = SUMS[name]
    sums = AnswerSums(torch.tensor(answer), torch.tensor(result), torch.tensor(sign))
    increases, subs = synthetic.case(seed, batch=len(answer), size=size)
    readout = replace(increases[0].readout, transform=soft_cap if capped else None)
    increases = [replace(each, readout=readout, known={}) for each in increases]
    by_place = flat_scores(increases, subs)
    log_p = torch.cat(
        [i.target_log_p()[:, None].expand(-1, s.width * s.sources) for i, s in zip(increases, subs, strict=True)], dim=1
    )
    scores = torch.stack([added_up(r, by_place, log_p, sums) for r in range(len(sums))])
    k = min(k, scores.shape[1])
    top = certified_topk(increases, subs, k, largest=largest, sums=sums)
    expected = scores.sort(dim=1, descending=largest, stable=True)
    torch.testing.assert_close(top.score, expected.values[:, :k], atol=1e-9, rtol=0)
    torch.testing.assert_close(scores.gather(1, top.flat), top.score, atol=1e-9, rtol=0)
    places = sums.result_of_place
    torch.testing.assert_close(by_place.gather(1, top.flat[places]), top.by_place, atol=1e-9, rtol=0)


def added_up(result, by_place, log_p, sums):
    """Probabilities of whole answers before and after, by plain products."""
    total = 0
    for sign in (1, -1):
        before, after = [], []
        for a in ((sums.result == result) & (sums.sign == sign)).nonzero().flatten():
            mine = sums.answer == a
            before.append(log_p[mine].sum(0))
            after.append((log_p + by_place)[mine].sum(0))
        if before:
            total = total + sign * (torch.stack(after).logsumexp(0) - torch.stack(before).logsumexp(0))
    return total


def test_few_neurons_are_evaluated_for_an_answer_where_bounds_are_tight():
    increases, subs = synthetic.case(11, batch=3, size=1e-3)
    sums = AnswerSums(torch.zeros(3, dtype=torch.long), torch.tensor([0]), torch.tensor([1]))
    assert certified_topk(increases, subs, 1, sums=sums).evaluated.max() <= 3
