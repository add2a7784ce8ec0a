"""What a head carried, and what its neurons explain, against runs edited by hand."""

import math

import pytest
import torch

from tests import architectures
from tl_neuron_attr import cna, demo
from tl_neuron_attr.cna import carried
from tl_neuron_attr.cna.carried import carried_drops, explained_share, first_source

TOKENS = architectures.prompts(1)
HEADS = [(0, 1), (1, 2), (2, 3)]


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "neox_parallel"])
@pytest.mark.parametrize("bos", [False, True])
def test_what_a_head_carried_is_taken_out_at_the_last_position_alone(name, bos, monkeypatch):
    model = architectures.build(name)
    monkeypatch.setattr(carried, "first_source", lambda model, ids: int(bos))
    logits, cache = model.run_with_cache(TOKENS)
    before = float(logits[0, -1].log_softmax(-1)[5])
    found = carried_drops(model, TOKENS, 5, HEADS)
    for (layer, head), drop in zip(HEADS, found.tolist(), strict=True):
        pattern, values = cache[f"blocks.{layer}.attn.hook_pattern"], cache[f"blocks.{layer}.attn.hook_v"]
        values = values.reshape(*values.shape[:2], -1, 8)
        own = head * values.shape[2] // pattern.shape[1]  # the group's, where heads share keys and values
        moved = sum(pattern[0, head, -1, s] * values[0, s, own] for s in range(int(bos), TOKENS.shape[1] - 1))

        def without(z, hook, head=head, moved=moved):
            heads = z.clone().reshape(*z.shape[:2], -1, 8)
            heads[0, -1, head] -= moved
            return heads.reshape(z.shape)

        left = model.run_with_hooks(TOKENS, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", without)])
        assert drop == pytest.approx(before - float(left[0, -1].log_softmax(-1)[5]), abs=1e-6)


@torch.no_grad()
def test_the_share_is_that_of_setting_the_neurons_by_hand():
    model = architectures.build("llama")
    found = cna.feature_predicting(model, TOKENS, 5, head=(1, 2), k=8)
    before = float(model(TOKENS)[0, -1].log_softmax(-1)[5])

    def of_layer(layer):
        def hook(post, hook):
            for at, index, value in zip(
                found.neurons.layer.tolist(),
                found.neurons.index.tolist(),
                found.other_coefficient.tolist(),
                strict=True,
            ):
                if at == layer:
                    post[0, -1, index] = value
            return post

        return f"blocks.{layer}.mlp.hook_post", hook

    left = float(model.run_with_hooks(TOKENS, fwd_hooks=[of_layer(1), of_layer(2)])[0, -1].log_softmax(-1)[5])
    drop = float(found.effects.drop[1, 2])
    expected = (before - left) / drop if drop > 0 else math.nan
    assert explained_share(model, TOKENS, 5, found) == pytest.approx(expected, nan_ok=True)


def test_more_neurons_explain_more():
    model = demo.load()
    ids = model.to_tokens("6 * 7 =")
    few, many = (cna.feature_predicting(model, ids, "42", head=(3, 2), k=k) for k in (3, 60))
    token = model.to_single_token("42")
    shares = [explained_share(model, ids, token, found) for found in (few, many)]
    assert 0 < shares[0] < shares[1]


def test_experts_and_heads_that_cost_nothing_have_no_share():
    model = architectures.build("mixtral")
    found = cna.feature_predicting(model, TOKENS, 5, head=(1, 2), k=6)
    assert math.isnan(explained_share(model, TOKENS, 5, found))
    dense = architectures.build("llama")
    costs = cna.head_effects(dense, TOKENS, 5, progress=False).ranked()[-1]
    least = cna.feature_predicting(dense, TOKENS, 5, head=costs, k=3)
    assert float(least.effects.drop[costs]) < 0 and math.isnan(explained_share(dense, TOKENS, 5, least))


def test_the_bos_is_no_source():
    model = demo.load()
    ids = model.to_tokens("6 * 7 =")
    assert first_source(model, ids) == 1 and first_source(model, ids[:, 1:]) == 0
