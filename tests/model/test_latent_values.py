"""Latent attention: its heads and neurons where TransformerLens shapes them otherwise, and what is refused there."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures, oracle
from tests.incontext.test_icl_batches import tiny_prompts
from tl_neuron_attr.model.latent_values import has_latent_values
from tl_neuron_attr.model.neuron_directions import directions_of
from tl_neuron_attr.model.weights import BlockWeights

LAYER, HEAD, WIDTH = 1, 2, 6
"""A head that is not the first, of four with values of six dimensions; ``hook_z`` shows six of four."""


def zeroed(model, columns):
    """Log-probabilities after the last token, with columns of a layer's output projection at zero."""
    weight = oracle.unwrapped(model.blocks[LAYER].attn.original_component.o_proj).weight.data
    kept = weight[:, columns].clone()
    weight[:, columns] = 0
    found = model(architectures.prompts(1))[0, -1].log_softmax(-1)
    weight[:, columns] = kept
    return found


@torch.no_grad()
@pytest.mark.parametrize("name", architectures.LATENT)
def test_what_is_ablated_is_the_head_and_neuron_named(name):
    model, tokens = architectures.build(name), architectures.prompts(1)
    first = HEAD * WIDTH
    with tna.ablate(model, [(LAYER, HEAD)]):  # the first run of this model: TransformerLens knows no size of values yet
        model(tokens)
    untouched = model(tokens)[0, -1].log_softmax(-1)
    for label, columns in (
        (f"L{LAYER}H{HEAD}", slice(first, first + WIDTH)),
        (f"L{LAYER}H{HEAD}D5", [first + 5]),
    ):
        expected = zeroed(model, columns)
        with tna.ablate(model, [label]):
            got = model(tokens)[0, -1].log_softmax(-1)
        torch.testing.assert_close(got, expected, atol=1e-9, rtol=0)
        assert (expected - untouched).abs().max() > 1e-4
        measured = tna.evaluate.verify_components(model, tokens, [label], 5, progress=False).effect
        torch.testing.assert_close(measured.double(), (untouched - expected)[5:6], atol=1e-6, rtol=0)


def test_only_latent_attention_has_latent_values():
    blocks = [architectures.build(name).blocks[0] for name in ("deepseek_v3", "llama")]
    assert [has_latent_values(block.attn) for block in blocks] == [True, False]
    assert [BlockWeights(block).latent_norm for block in blocks] == ["attn.kv_a_layernorm", ""]


@torch.no_grad()
def test_tokens_behind_a_head_are_those_of_what_it_writes_when_it_reads_the_neuron():
    model = architectures.build("deepseek_v2")
    _, cache = model.run_with_cache(architectures.prompts(1))
    value = tna.value_neurons(cache, 5, 1, sites="mlp")
    attention = model.blocks[LAYER].attn.original_component
    got = tna.transformed_tokens(model, value, LAYER, HEAD, k=5).promoted[0]
    (wrote,) = directions_of(model, [("mlp", int(value.layer[0, 0]), -1, int(value.index[0, 0]))])
    normed = model.blocks[LAYER].ln1.w * wrote
    latent = attention.kv_a_proj_with_mqa(normed)[: attention.kv_lora_rank]
    spread = attention.kv_b_proj(attention.kv_a_layernorm(latent)).view(4, -1)[HEAD, -WIDTH:]
    logits = (model.blocks[LAYER].attn.W_O[HEAD].T @ spread * model.ln_final.w) @ model.W_U
    sign = value.coefficient[0, 0].sign()
    expected = [model.to_string(token) for token in (sign * logits).topk(5).indices.tolist()]
    assert list(got) == expected


def test_methods_that_need_a_heads_own_matrices_are_refused():
    model = architectures.build("deepseek_v2", dtype=torch.float32)
    prompts = tiny_prompts(model)
    tokens, mask = tna.incontext.batch_of(model, prompts).inputs()
    _, cache = model.run_with_cache(tokens, **mask)
    with pytest.raises(ValueError, match=r"its heads have no W_Q of their own"):
        tna.incontext.two_towers(cache, prompts, layer=LAYER, head=HEAD)
