"""Weights quantised by bitsandbytes, on the CPU: those of 4 bit exactly, those of 8 bit with the error they have."""

import pytest
import torch
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import tl_neuron_attr as tna
from tests import architectures
from tests.every_score import scores

bnb = pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install bitsandbytes (it runs on a CPU)")
TOKENS = architectures.prompts()


def quantised(folder, **how):
    """A tiny model from a folder, its linear modules quantised."""
    hf = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=BitsAndBytesConfig(**how), device_map={"": "cpu"}, dtype=torch.float32
    )
    return TransformerBridge.boot_transformers(folder, hf_model=hf, tokenizer=architectures.tokenizer())


def plain(model, folder):
    """The same model with the numbers that its quantised weights stand for."""
    found = TransformerBridge.boot_transformers(folder, device="cpu")
    named = dict(found.original_model.named_modules())
    for name, module in model.original_model.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            weight = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            named[name].weight.data = weight.float()
        elif isinstance(module, bnb.nn.Linear8bitLt):
            state = module.state  # its first run moves them there from the weight
            named[name].weight.data = state.CB.float() * state.SCB[:, None] / 127
    return found


@pytest.mark.parametrize("kind", ["fp4", "nf4"])
def test_scores_of_4_bit_weights_are_those_of_the_numbers_they_stand_for(kind, tmp_path):
    folder = architectures.saved("llama", tmp_path)
    model = quantised(folder, load_in_4bit=True, bnb_4bit_quant_type=kind)
    cache = model.run_with_cache(TOKENS)[1]
    same = ActivationCache(dict(cache.cache_dict), plain(model, folder))
    expected = scores(same)
    for name, got in scores(cache).items():
        torch.testing.assert_close(got, expected[name], atol=1e-5, rtol=0)
    value = tna.value_neurons(cache, 5, 6)
    assert value.labels == tna.value_neurons(same, 5, 6).labels
    assert tna.query_neurons(cache, value, 5).labels == tna.query_neurons(same, value, 5).labels
    with pytest.raises(ValueError, match="the weights of layer 0 are offloaded or quantised"):
        tna.edit(model, ["L0N3"])
    with tna.ablate(model, ["L0N3"]), tna.ablate(same.model, ["L0N3"]):
        torch.testing.assert_close(model(TOKENS), same.model(TOKENS), atol=1e-5, rtol=0)


@torch.no_grad()
def test_scores_of_8_bit_weights_come_with_the_part_that_they_miss(tmp_path):
    folder = architectures.saved("llama", tmp_path)
    model = quantised(folder, load_in_8bit=True)
    cache = model.run_with_cache(TOKENS)[1]
    with pytest.warns(
        UserWarning, match=r"layer 0: the mlp neurons miss 0\.\d\d% of what their layer wrote, since 8-bit"
    ):
        got = tna.attribute_mlp_neurons(cache, 5)
    same = ActivationCache(dict(cache.cache_dict), plain(model, folder))
    with pytest.raises(ValueError, match="the mlp neurons and biases do not sum"):  # plain weights have no such excuse
        tna.attribute_mlp_neurons(same, 5)
    directions = plain(model, folder).blocks[1].mlp.W_out
    rebuilt = cache["blocks.1.mlp.hook_post"][0, -1] @ directions
    missed = (rebuilt - cache["blocks.1.hook_mlp_out"][0, -1]).norm() / rebuilt.norm()
    assert 1e-4 < missed < 0.05
    base = cache["blocks.1.hook_resid_mid"][0, -1]
    neuron = int(got[0, 1].abs().argmax())
    moved = torch.stack([base, base + cache["blocks.1.mlp.hook_post"][0, -1, neuron] * directions[neuron]])
    scale, w = cache["ln_final.hook_scale"][0, -1], model.ln_final.w
    log_p = (moved / scale * w @ model.W_U).log_softmax(-1)[:, 5]
    assert float(got[0, 1, neuron]) == pytest.approx(float(log_p[1] - log_p[0]), abs=1e-4)
    with pytest.warns(UserWarning, match="8-bit"):
        value = tna.value_neurons(cache, 5, 4)
        assert len(tna.query_neurons(cache, value, 3)) == 3
