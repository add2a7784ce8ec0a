"""Vectors of any number and size, all through ``W_U`` in one pass, against two ``log_softmax`` in float64 each."""

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import synthetic
from tl_neuron_attr.numerics.readout import Readout
from tl_neuron_attr.numerics.scores_of_vectors import scores_at, scores_of_vectors

sizes = st.sampled_from([1e-6, 1e-2, 1.0, 30.0, 1e3])
"""From contributions that a float32 can hardly tell from nothing to those whose exponential overflows."""


@settings(max_examples=100)
@given(synthetic.seeds, synthetic.peaks, sizes, st.sampled_from([1, 3000, 2**28]), st.booleans())
def test_equals_two_log_softmaxes(seed, peak, size, max_bytes, capped):
    increases, _ = synthetic.case(seed, batch=3, peak=peak)
    if capped:
        increases = [replace(i, readout=replace(i.readout, transform=lambda x: 5 * (x / 5).tanh())) for i in increases]
    g = torch.Generator().manual_seed(seed)
    vectors = [size * torch.randn(3, n, 2, i.base.shape[1], generator=g).double() for n, i in enumerate(increases, 1)]
    found = scores_of_vectors(increases, vectors, max_bytes=max_bytes)
    for increase, v, scores in zip(increases, vectors, found, strict=True):
        for row in range(3):
            expected = _by_definition(increase, row, v[row])
            torch.testing.assert_close(scores[row], expected, atol=1e-9, rtol=1e-12)


def test_a_contrast_needs_no_expectation():
    increases, _ = synthetic.case(4, batch=2)
    contrasted = [replace(i, contrast=(i.target + 1) % i.readout.d_vocab) for i in increases]
    other = [replace(i, target=(i.target + 1) % i.readout.d_vocab) for i in increases]
    vectors = [torch.randn(2, 4, i.base.shape[1], dtype=torch.float64) for i in increases]
    both = zip(scores_of_vectors(increases, vectors), scores_of_vectors(other, vectors), strict=True)
    for (mine, theirs), found in zip(both, scores_of_vectors(contrasted, vectors), strict=True):
        torch.testing.assert_close(found, mine - theirs)


def test_vectors_in_any_order_and_number_keep_their_bases():
    increases, _ = synthetic.case(9, batch=2)
    at = torch.tensor([7, 0, 3, 3, 0, 5])
    vectors = torch.randn(6, increases[0].base.shape[1], dtype=torch.float64)
    found = scores_at(increases, vectors, at)
    for i, base in enumerate(at.tolist()):
        torch.testing.assert_close(found[i], synthetic.by_log_softmax(increases[base // 2], base % 2, vectors[i]))


def test_a_vector_that_is_not_a_number_is_not_scored_as_one():
    increases, _ = synthetic.case(9)
    vectors = torch.ones(2, 1, increases[0].base.shape[1], dtype=torch.float64).index_fill(
        0, torch.tensor([1]), torch.nan
    )
    scores = scores_of_vectors(increases[:1], [vectors])[0]
    assert scores[0].isfinite().all() and scores[1].isnan().all()


def test_float32_at_a_vocabulary_of_262144_stays_within_1e_5_nats():
    """Logits about 40, as real ones are: normalisers summed apart shifted scores by 2e-5 nats here, 1e-4 on Gemma."""
    increase, g = synthetic.large_vocabulary()
    sizes = torch.tensor([1e-3, 0.05, 0.3, 1.0, 2.0])
    vectors = sizes[:, None] * torch.randn(len(increase.base), 5, increase.base.shape[1], generator=g)
    found = scores_of_vectors([increase], [vectors])[0]
    for row in range(len(found)):
        error = found[row] - synthetic.by_log_softmax(increase, row, vectors[row])
        assert error.abs().max() < 1e-5, row


def _by_definition(increase, row, vectors):
    transform = increase.readout.transform or (lambda x: x)
    plain = replace(increase.readout, transform=None)

    def log_p(resid):
        return transform(plain.select(torch.tensor([row])).logits(resid[None])[0]).log_softmax(-1)

    after, before = log_p(increase.base[row] + vectors), log_p(increase.base[row])
    return (after - before)[..., increase.target[row]]


def test_bases_and_vectors_pass_through_the_vocabulary_together(monkeypatch):
    passes = []
    chunks = Readout.chunks
    monkeypatch.setattr(Readout, "chunks", lambda readout, width: passes.append(width) or chunks(readout, width))
    increases, _ = synthetic.case(3, batch=2)
    vectors = [torch.randn(2, 5, i.base.shape[1], dtype=torch.float64) for i in increases]
    first = scores_of_vectors(increases, vectors)
    assert len(passes) == 1  # nothing was known of the bases, and no vector needed a second look
    for again, scores in zip(scores_of_vectors(increases, vectors), first, strict=True):
        torch.testing.assert_close(again, scores, atol=1e-12, rtol=1e-12)  # read out by now
    assert len(passes) == 2
