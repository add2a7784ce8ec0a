"""Weights on disk, in another place of memory, on another device or quantised give the scores of those in memory."""

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from accelerate.utils import OffloadedWeightsLoader, offload_state_dict
from torch import nn
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.model import stream as streams
from tl_neuron_attr.model.readable_blocks import fetched, is_at_hand, outline

TOKENS = architectures.prompts()
CPU = torch.device("cpu")
SCORES = (
    lambda *args: tna.attribute_layers(*args).mlp,
    tna.attribute_heads,
    tna.attribute_mlp_neurons,
    tna.attribute_attn_neurons,
)


def offload(module, where, folder):
    """Let accelerate take the weights out of a module, to disk or to where no module holds them."""
    for i, leaf in enumerate(each for each in module.modules() if each._parameters):
        own, kept = folder / str(i), None
        if where == "disk":
            offload_state_dict(own, leaf.state_dict())
            kept = OffloadedWeightsLoader(save_folder=own)
        add_hook_to_module(leaf, AlignDevicesHook(CPU, offload=True, weights_map=kept))
    assert all(weight.is_meta for weight in module.parameters())


def offloaded(name, where, folder):
    """A tiny model whose last two blocks are offloaded."""
    model = architectures.build(name)
    for layer in (1, 2):
        offload(model.blocks[layer], where, folder / str(layer))
    return model


@pytest.mark.parametrize(("name", "where"), [("gpt2", "disk"), ("olmo2", "cpu"), ("qwen3_moe", "disk")])
def test_scores_of_offloaded_weights_are_those_in_memory(name, where, tmp_path, monkeypatch):
    model, plain = offloaded(name, where, tmp_path), architectures.build(name)
    cache, ran = model.run_with_cache(TOKENS)[1], plain.run_with_cache(TOKENS)[1]
    for key, activation in ran.items():  # accelerate's run may add up in another order, by the processor: its last bit
        torch.testing.assert_close(cache[key], activation, atol=1e-12, rtol=1e-12)
    expected = ActivationCache(cache.cache_dict, plain)
    reads = []
    monkeypatch.setattr(streams, "fetched", lambda *args: reads.append(args[0]) or fetched(*args))
    for function in SCORES:
        reads.clear()
        assert torch.equal(function(cache, 5), function(expected, 5))
        assert len(reads) <= 4  # each of the two blocks once for its weights, and once for the checks of the cache
    value = tna.value_neurons(cache, 5, 10)
    assert value == tna.value_neurons(expected, 5, 10)
    assert tna.query_neurons(cache, value, 5) == tna.query_neurons(expected, value, 5)
    assert torch.equal(tna.query_layers(cache, value).mlp, tna.query_layers(expected, value).mlp)
    assert all(weight.is_meta for weight in model.blocks[1].parameters())  # as before


def test_a_device_map_with_a_part_on_disk_gives_the_scores_in_memory(tmp_path):
    folder = architectures.saved("llama", tmp_path / "model")
    plain = TransformerBridge.boot_transformers(folder, device="cpu")
    model = TransformerBridge.boot_transformers(
        folder, device_map=architectures.placed("cpu", ["cpu", "disk", "disk"]), offload_folder=str(tmp_path / "disk")
    )
    assert [next(block.parameters()).is_meta for block in model.blocks] == [False, True, True]
    cache, expected = model.run_with_cache(TOKENS)[1], plain.run_with_cache(TOKENS)[1]
    for function in SCORES:
        assert torch.equal(function(cache, 5), function(expected, 5))
    assert tna.value_neurons(cache, 5, 10) == tna.value_neurons(expected, 5, 10)
    with pytest.raises(RuntimeError, match=r"not supported on a bridge with an offloaded device_map"):
        model.enable_compatibility_mode()
    assert torch.equal(tna.attribute_heads(model.run_with_cache(TOKENS)[1], 5), tna.attribute_heads(expected, 5))


def test_ablation_works_on_offloaded_weights_and_edits_are_refused(tmp_path):
    model, plain = offloaded("qwen3_moe", "disk", tmp_path), architectures.build("qwen3_moe")
    named = ["L1E2N3", "L2H1", "L1H0D3"]
    with tna.ablate(model, named), tna.ablate(plain, named):
        assert torch.equal(model(TOKENS), plain(TOKENS))
    with pytest.raises(ValueError, match="the weights of layer 1 are offloaded or quantised"):
        tna.edit(model, ["L1H0"])


def test_the_outline_has_shapes_and_no_numbers(tmp_path):
    model, plain = offloaded("llama", "disk", tmp_path), architectures.build("llama")
    block, whole = outline(model.blocks[1]), plain.blocks[1]
    assert block.attn.W_O.shape == whole.attn.W_O.shape and bool(block.attn.W_O.isnan().all())
    read = fetched(model.blocks[1], CPU)
    assert torch.equal(read.attn.W_O, whole.attn.W_O) and torch.equal(read.ln1.w, whole.ln1.w)
    assert is_at_hand(read, CPU) and not is_at_hand(model.blocks[1], CPU)


def test_an_offloaded_unembedding_is_refused(tmp_path):
    model = architectures.build("llama")
    _, cache = model.run_with_cache(TOKENS)
    offload(model.unembed, "disk", tmp_path)
    with pytest.raises(ValueError, match=r"W_U is offloaded to CPU or disk, and every score needs it: keep"):
        tna.attribute_layers(cache, 5)


class Packed(nn.Linear):
    """A linear module that stores 8-bit integers and a scale, and says what numbers they stand for."""

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features, bias=False, dtype=linear.weight.dtype)
        self.scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.weight = nn.Parameter((linear.weight.detach() / self.scale).round().to(torch.int8), requires_grad=False)

    def dequantize(self):
        return self.weight * self.scale

    def forward(self, x):
        return nn.functional.linear(x, self.dequantize())


class PackedOtherWay(Packed):
    """The same, with the method's name and the matrix' orientation of GPTQ."""

    dequantize = None

    def dequantize_weight(self):
        return (self.weight * self.scale).T

    def forward(self, x):
        return x @ self.dequantize_weight()


def quantised(kind, names=("q", "k", "v", "o", "gate", "in", "out")):
    """Two models of the same numbers: one stores them quantised, one plainly."""
    models = architectures.build("llama"), architectures.build("llama")
    for layer in range(architectures.LAYERS):
        for name in names:
            stored, plain = (getattr(model.blocks[layer].attn if len(name) == 1 else model.blocks[layer].mlp, name)
                             for model in models)  # fmt: skip
            packed = kind(plain.original_component)
            plain.original_component.weight.data = packed.weight * packed.scale
            stored._modules["_original_component"] = packed
    return models


@pytest.mark.parametrize("kind", [Packed, PackedOtherWay])
def test_scores_of_quantised_weights_are_those_of_the_numbers_they_stand_for(kind):
    model, plain = quantised(kind)
    cache, expected = model.run_with_cache(TOKENS)[1], plain.run_with_cache(TOKENS)[1]
    for function in SCORES:
        torch.testing.assert_close(function(cache, 5), function(expected, 5), atol=1e-12, rtol=1e-9)
    value = tna.value_neurons(cache, 5, 10)
    assert value.labels == tna.value_neurons(expected, 5, 10).labels
    assert tna.query_neurons(cache, value, 5).labels == tna.query_neurons(expected, value, 5).labels
    with pytest.raises(ValueError, match="the weights of layer 0 are offloaded or quantised"):
        tna.edit(model, ["L0N3"])


@pytest.mark.parametrize("method", ["gradient", "relevance"])
def test_effects_of_quantised_weights_are_those_of_the_numbers_they_stand_for(method):
    model, plain = quantised(Packed)
    wanted = [p.requires_grad for p in model.parameters()]
    found, expected = (tna.evaluate.estimate_effects(m, TOKENS[0], 5, method=method) for m in (model, plain))
    torch.testing.assert_close(found.mlp, expected.mlp, atol=1e-10, rtol=1e-9)
    torch.testing.assert_close(found.attn, expected.attn, atol=1e-10, rtol=1e-9)
    best = expected.top(4)
    lost, expected_loss = (tna.evaluate.verify(m, TOKENS[0], best, 5, progress=False).joint for m in (model, plain))
    assert lost == pytest.approx(expected_loss, abs=1e-10)
    assert [p.requires_grad for p in model.parameters()] == wanted


def test_a_module_that_is_not_linear_keeps_its_weights_whatever_it_calls_dequantize(tmp_path):
    """A method of that name says how to read a matrix only where the module is one."""

    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.full((3,), 2.0))

        def dequantize(self):
            raise AssertionError("asked for a matrix it does not have")

    block = nn.Sequential(Scale(), nn.Linear(3, 3))
    assert is_at_hand(block, CPU)
    offload(block[1], "cpu", tmp_path)
    assert fetched(block, CPU)[0].weight.tolist() == [2.0] * 3


def test_a_matrix_of_integers_that_nothing_explains_is_refused():
    model = architectures.build("llama")
    _, cache = model.run_with_cache(TOKENS)
    bridge = model.blocks[1].mlp.out
    packed = (bridge.original_component.weight.detach() * 100).to(torch.int8)
    bridge.original_component.weight = nn.Parameter(packed, requires_grad=False)
    with pytest.raises(ValueError, match=r"layer 1: .* is quantised \(torch.int8\) and has no dequantiser"):
        tna.attribute_mlp_neurons(cache, 5)
