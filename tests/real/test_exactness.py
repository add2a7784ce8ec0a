"""Scores on real models against a float64 account in plain transformers: neurons, searches, shares, heads."""

import random

import pytest
import torch

import tl_neuron_attr as tna

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4
"""In nats: what every float32 score is claimed to be exact to."""
BRUTE_FORCED = {"smollm2-135m": (24, 28), "gemma3-270m": (13,)}
"""Layers in which every MLP neuron is scored: those of the best neurons; one of Gemma, whose vocabulary is the cost."""


@pytest.fixture(scope="module")
def value(real):
    return tna.value_neurons(real.cache, real.target, 30)[0]


def rows(neurons):
    """Each neuron as (site, layer, head, source, index, score)."""
    columns = (neurons.site, neurons.layer, neurons.head, neurons.source, neurons.index, neurons.score)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def written(real, site, layer, head, source, index):
    if site == 1:
        return real.plain.mlp_neurons(layer, [index])[0]
    return real.plain.attn_neuron(layer, head, index, source)


def test_the_model_says_what_plain_transformers_says(real):
    torch.testing.assert_close(real.logits[0, -1].double(), real.plain.logits, rtol=0, atol=1e-3)
    probs = real.logits[0, -1].softmax(-1)
    assert int(probs.argmax()) == real.target_id and float(probs.max()) > 0.4


def test_neurons_have_the_scores_of_the_oracle(real):
    many = rows(tna.value_neurons(real.cache, real.target, 300)[0])
    sample = many[:12] + random.Random(3).sample(many[12:], 12)
    for site, layer in sorted({neuron[:2] for neuron in sample}):
        together = [neuron for neuron in sample if neuron[:2] == (site, layer)]
        vectors = torch.stack([written(real, *neuron[:-1]) for neuron in together])
        expected = real.plain.increase("mlp" if site == 1 else "attn", layer, vectors, real.target_id)
        got = torch.tensor([neuron[-1] for neuron in together], dtype=torch.float64)
        torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)


def test_what_heads_carried_from_each_token_has_the_score_of_the_oracle(real):
    layer = real.model.cfg.n_layers * 2 // 3
    width = real.model.blocks[layer].attn.W_O.shape[1]
    got = tna.attribute_head_positions(real.cache, real.target)[0, layer]
    for head in (0, len(got) - 1):
        vectors = [
            sum(real.plain.attn_neuron(layer, head, dimension, source) for dimension in range(width))
            for source in range(got.shape[-1])
        ]
        expected = real.plain.increase("attn", layer, torch.stack(vectors), real.target_id)
        torch.testing.assert_close(got[head].double(), expected, rtol=0, atol=TOLERANCE)


def test_the_certified_best_are_the_best_by_brute_force(real, value):
    last = float(value.score[-1])
    for layer in BRUTE_FORCED[real.name]:
        base = real.plain.base("mlp", layer)
        streams = torch.cat([base[None], base + real.plain.mlp_neurons(layer, slice(None))])
        scored = torch.cat([real.plain.log_probs(s, real.target_id, torch.float32) for s in streams.split(256)])
        scores = scored[1:] - scored[0]
        found = {index for site, at, _, _, index, _ in rows(value) if site == 1 and at == layer}
        assert found >= set((scores > last + TOLERANCE).nonzero().flatten().tolist())
        assert found <= set((scores > last - TOLERANCE).nonzero().flatten().tolist()) and found


def test_what_switched_them_on_shares_their_scores_out(real, value):
    few = value.top(5)
    layers = tna.query_layers(real.cache, few)
    total = float(layers.embed.sum() + layers.attn.sum() + layers.mlp.sum())
    assert total == pytest.approx(float(few.score.sum()), abs=TOLERANCE)


def test_heads_zeroed_leave_what_plain_transformers_leaves(real):
    heads = [(layer, 1) for layer in (2, real.model.cfg.n_layers // 2, real.model.cfg.n_layers - 2)]
    effects = tna.head_effects(real.model, real.plain.ids[0], real.target_id, heads=heads, progress=False)
    for row in effects.to_frame().itertuples():
        expected = real.plain.without_head(row.layer, row.head, real.target_id)
        assert row.log_prob == pytest.approx(expected, abs=TOLERANCE)
