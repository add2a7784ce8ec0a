"""Answers of several tokens on real models: each token against plain transformers at the position before it."""

import pytest
import torch

import tl_neuron_attr as tna
from tests.real.plain import Plain

pytestmark = pytest.mark.slow

PROMPT, ANSWER = "The Empire State Building is in", " New York City"
TOLERANCE = 1e-4
"""In nats, per token."""


@pytest.fixture(scope="module")
def scored(real):
    return tna.answer(real.model, PROMPT, ANSWER)


@pytest.fixture(scope="module")
def plain(real, scored):
    """A run of plain transformers up to the position before each token."""
    ids = scored.stream.tokens()
    return [Plain.run(real.folder, ids[:, : pos + 1]) for pos in scored.places.pos.tolist()]


def test_the_answers_log_probability_is_that_of_plain_transformers(scored, plain):
    expected = sum(
        float(one.logits.log_softmax(-1)[token]) for one, token in zip(plain, scored.target.tolist(), strict=True)
    )
    assert len(plain) == 3 and float(scored.log_prob) == pytest.approx(expected, abs=1e-3)


def test_each_tokens_score_is_that_of_the_oracle(scored, plain):
    found = tna.value_neurons(scored, k=12)
    columns = [getattr(found, name).tolist() for name in ("site", "layer", "head", "source", "index")]
    for one, token, scores in zip(plain, scored.target.tolist(), found.per_token.score.tolist(), strict=True):
        streams, ours = [], []
        for site, layer, head, source, index, score in zip(*columns, scores, strict=True):
            if source >= one.ids.shape[1]:
                assert score == 0  # it reads a token of the answer that is not there yet
                continue
            base = one.base("mlp" if site == 1 else "attn", layer)
            written = one.mlp_neurons(layer, [index])[0] if site == 1 else one.attn_neuron(layer, head, index, source)
            streams += [base, base + written]
            ours.append(score)
        log_p = one.log_probs(torch.stack(streams), token)
        assert ours == pytest.approx((log_p[1::2] - log_p[::2]).tolist(), abs=TOLERANCE)


def test_the_best_of_a_layer_are_the_best_by_summed_brute_force(scored, plain):
    found = tna.value_neurons(scored, k=30)
    layer = int(found.of_site("mlp").layer[0])
    total = 0
    for one, token in zip(plain, scored.target.tolist(), strict=True):
        base = one.base("mlp", layer)
        streams = torch.cat([base[None], base + one.mlp_neurons(layer, slice(None))])
        by_stream = torch.cat([one.log_probs(s, token, torch.float32) for s in streams.split(256)])
        total = total + by_stream[1:] - by_stream[0]
    ours = set(found.mlp_indices(layer).tolist())
    last, allowed = float(found.score[-1]), 3 * TOLERANCE
    assert ours >= set((total > last + allowed).nonzero().flatten().tolist())
    assert ours and ours <= set((total > last - allowed).nonzero().flatten().tolist())
