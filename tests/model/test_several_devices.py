"""A model whose blocks lie on several devices gives the results of one on a single device."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tests.pretend_devices import PretendDevices, spread
from tl_neuron_attr import cna, evaluate

TOKENS = architectures.prompts()
DEVICES = [torch.device("cuda", i) for i in range(architectures.LAYERS)]


def scores(model, tokens):
    """Every score of a cache, by name."""
    cache = model.run_with_cache(tokens)[1]
    value = tna.value_neurons(cache, 5, 10)
    layers, queries = tna.attribute_layers(cache, 5), tna.query_layers(cache, value)
    query = tna.query_neurons(cache, value, 5)
    return {
        "layers": layers.mlp + layers.attn,
        "heads": tna.attribute_heads(cache, 5),
        "positions": tna.attribute_head_positions(cache, 5),
        "mlp": tna.attribute_mlp_neurons(cache, 5),
        "attn": tna.attribute_attn_neurons(cache, 5),
        "value": value.score,
        "query": query.score,
        "query layers": queries.mlp + queries.attn,
        "few": tna.value_neurons(tna.run(model, tokens), 5, 10).score,
        "contrast": tna.attribute_mlp_neurons(cache, torch.tensor([5, 6]), contrast=7, pos=torch.tensor([6, 4])),
    }


@pytest.mark.parametrize("name", ["llama", "gpt2", "olmo2", "qwen3_moe"])
def test_scores_of_blocks_on_several_devices_are_those_on_one(name):
    plain, model = architectures.build(name), architectures.build(name)
    spread(model, DEVICES)
    with PretendDevices():
        found = scores(model, TOKENS)
        devices = {key: each.device for key, each in found.items()}
    assert set(devices.values()) == {DEVICES[-1]}
    expected = scores(plain, TOKENS)
    assert all(torch.equal(each, expected[key]) for key, each in found.items())


def test_two_devices_that_meet_are_noticed():
    model = architectures.build("llama")
    spread(model, DEVICES)
    with PretendDevices(), pytest.raises(AssertionError, match=r"of tensors on .'cuda:0', 'cuda:1'."):
        model.blocks[0].attn.W_O + model.blocks[1].attn.W_O


def runs(model, tokens):
    """What runs the model again, by name."""
    few, prompt = [(0, 1), (1, 0), (2, 3)], tokens[0]
    cache = model.run_with_cache(tokens[:1])[1]
    value = tna.value_neurons(cache, 5, 6)[0]
    neurons = ["L0N3", "L1H2D3", "L2N9"]
    with tna.ablate(model, neurons):
        ablated = model(tokens)
    verified = evaluate.verify(model, prompt, value, 5, progress=False)
    return {
        "ablated": ablated,
        "heads": cna.head_effects(model, tokens, 5, heads=few, progress=False).log_prob.nan_to_num(),
        "verified": verified.neurons.effect,
        "estimated": evaluate.estimate_effects(model, tokens, 5, method="relevance").mlp_neurons,
        "traced": torch.tensor(tna.trace(cache, 5, k=5).to_frame()["weight"].to_list()),
        "compared": cna.compare_neurons(cache, model.run_with_cache(tokens[1:])[1], 5).increase,
        "flow": tna.logit_flow(cache, 5).mlp,
    }


def test_runs_of_blocks_on_several_devices_give_what_they_do_on_one():
    plain, model = architectures.build("llama"), architectures.build("llama")
    spread(model, DEVICES)
    with PretendDevices():
        found = runs(model, TOKENS)
    expected = runs(plain, TOKENS)
    for key, each in found.items():
        torch.testing.assert_close(each, expected[key], atol=1e-12, rtol=1e-9, msg=key)
