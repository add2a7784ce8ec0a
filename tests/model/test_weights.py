"""What a block's weights say of it, on every architecture."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.model.weights import BlockWeights, block_weights

UNUSUAL = {
    "LNPre": {"normalization_type": "LNPre"},
    "RMSPre": {"normalization_type": "RMSPre"},
    "no norms": {"normalization_type": None},
    "attention only": {"attn_only": True},
}


@pytest.mark.parametrize("name", list(architectures.BUILDERS))
def test_whether_a_block_is_parallel_is_read_from_its_modules(name):
    assert BlockWeights(architectures.build(name).blocks[0]).parallel == (name in architectures.PARALLEL)


def test_a_config_that_claims_a_parallel_block_is_not_believed():
    model = architectures.native(parallel_attn_mlp=True)
    assert not block_weights(model, 0).parallel
    _, cache = model.run_with_cache(architectures.prompts())
    between = cache["blocks.0.hook_resid_pre"] + cache["blocks.0.hook_attn_out"]
    torch.testing.assert_close(cache["blocks.0.hook_resid_mid"], between)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "falcon", "qwen2", "gemma3"])
def test_a_heads_projection_gives_its_queries_keys_and_values(name):
    model, layer = architectures.build(name), 1
    _, cache = model.run_with_cache(architectures.prompts())
    weights, read = block_weights(model, layer), cache[f"blocks.{layer}.ln1.hook_out"]
    for side in ("q", "k", "v"):
        computed = cache[f"blocks.{layer}.attn.hook_{side}"]
        repeated = weights.by_head(side)
        for head in range(weights.n_heads):
            weight, bias = weights.projection(side, head)
            own = computed[:, :, head // weights.shared_by(side)]
            torch.testing.assert_close(read @ weight + (0 if bias is None else bias), own, atol=1e-5, rtol=1e-5)
            assert torch.equal(repeated[head], weight)
    keys, bias = weights.keys("v")
    every = cache[f"blocks.{layer}.attn.hook_v"].repeat_interleave(weights.shared_by("v"), dim=2).flatten(2)
    torch.testing.assert_close(read @ keys + (0 if bias is None else bias), every, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", [*architectures.UNWEIGHTED, *UNUSUAL])
def test_models_with_norms_without_weights_or_without_norms_or_mlps_are_scored(name):
    """Against the oracle where there is one; else the sum over layers, which telescopes in sequential blocks."""
    unweighted = name in architectures.UNWEIGHTED
    model = architectures.build(name) if unweighted else architectures.native(**UNUSUAL[name])
    logits, cache = model.run_with_cache(architectures.prompts())
    scores = tna.attribute_layers(cache, 5)
    start = cache["blocks.0.hook_resid_pre"][:, -1]
    weight = getattr(model.ln_final, "w", None)
    if name != "no norms":
        start = start if model.ln_final.uses_rms_norm else start - start.mean(-1, keepdim=True)
        start = start / cache["ln_final.hook_scale"][:, -1] * (1 if weight is None else weight)
        bias = getattr(model.ln_final, "b", None)
        start = start if bias is None else start + bias
    embedded = model.adapter.apply_output_logits_transform(start @ model.W_U + model.b_U).log_softmax(-1)[:, 5]
    final = logits[:, -1].log_softmax(-1)[:, 5]
    torch.testing.assert_close((scores.attn + scores.mlp).sum(1), final - embedded, atol=1e-4, rtol=1e-4)
    if name == "attention only":
        assert float(scores.mlp.abs().max()) < 1e-6
        with pytest.raises(ValueError, match=r"no MLP neurons .*, or attention only.* pass sites="):
            tna.value_neurons(cache, 5, 3)
        assert len(tna.value_neurons(cache, 5, 3, sites=("attn",))) == 3
    else:
        assert len(tna.query_neurons(cache, tna.value_neurons(cache, 5, 6), 3)) == 3
