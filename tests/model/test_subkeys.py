"""Subkeys give the pre-activations the model computed, or are refused: weights changed since the run, adapters."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import tl_neuron_attr as tna
from tests import architectures
from tests.incontext.test_icl_batches import tiny_prompts
from tl_neuron_attr import cna
from tl_neuron_attr.incontext import batch_of, two_towers
from tl_neuron_attr.knowledge.query_neurons import weighted_subkeys
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.subkeys import subkey_directions

POS = torch.tensor([6, 4])
CHANGED = r"the model's weights do not give the cached activations: L\d(N\d+|H\dD\d) reads .* or an adapter is"


class LowRank(nn.Module):
    """A linear map and an adapter beside it, not merged: ``weight`` is the bare one's, as peft has it."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        rows, columns = base.weight.shape
        self.A, self.B = nn.Parameter(torch.randn(columns, 2) / 4), nn.Parameter(torch.randn(2, rows) / 4)
        self.to(base.weight.dtype)

    @property
    def weight(self):
        return self.base.weight

    @property
    def bias(self):
        return self.base.bias

    def forward(self, x):
        return self.base(x) + x @ self.A @ self.B


def module_of(model, layer, name):
    """The wrapped linear map: ``"gate"``, ``"v"``, ..."""
    block = model.blocks[layer]
    owner = block.attn if name in "qkvo" else block.mlp
    return getattr(owner, name)


def asked(model, tokens=None):
    """A cache, and value neurons of both sites found in it."""
    _, cache = model.run_with_cache(architectures.prompts() if tokens is None else tokens)
    return cache, tna.value_neurons(cache, 5, 60, pos=POS)


@torch.no_grad()
@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("name", [*architectures.DENSE, *architectures.UNWEIGHTED])
def test_every_subkey_of_every_architecture_gives_the_cached_pre_activation(name, compat):
    if compat and name in architectures.UNWEIGHTED:
        pytest.skip("TransformerLens folds no norm that has no weight")
    _, cache = architectures.run(name, compat=compat)
    stream = Stream(cache)
    for layer in range(architectures.LAYERS):
        weights, places = stream.weights(layer), stream.positions(POS).select(torch.tensor([0, 1, 1, 0]))
        index = torch.tensor([0, 7, 30, 31])
        for site, which in (("mlp", "in"), ("attn", "v"), *((("mlp", "gate"),) if weights.gated else ())):
            assert subkey_directions(stream, site, layer, index, places, which).shape == (4, 32)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gate", "in", "v"])
def test_adapters_attached_and_not_merged_are_refused(name):
    model = architectures.build("llama")
    for layer in range(architectures.LAYERS):
        bridge = module_of(model, layer, name)
        bridge.set_original_component(LowRank(bridge.original_component))
    cache, value = asked(model)
    for function in (tna.query_layers, lambda c, v, pos: tna.query_neurons(c, v, 5, pos=pos)):
        with pytest.raises(ValueError, match=CHANGED):
            function(cache, value, pos=POS)


@torch.no_grad()
@pytest.mark.parametrize("name", ["o", "out"])
def test_adapters_on_what_sublayers_write_are_refused(name):
    model = architectures.build("llama")
    bridge = module_of(model, 1, name)
    bridge.set_original_component(LowRank(bridge.original_component))
    _, cache = model.run_with_cache(architectures.prompts())
    with pytest.raises(ValueError, match=r"layer 1: the (attn|mlp) neurons and biases do not sum"):
        tna.value_neurons(cache, 5, 8, pos=POS)


def test_a_parametrised_weight_is_the_one_that_is_used():
    """Weight normalisation computes the weight at each use, so the numbers are right: those of the plain model."""
    plain, normed = architectures.build("llama"), architectures.build("llama")
    for layer in range(architectures.LAYERS):
        for name in ("gate", "in", "out"):
            parametrizations.weight_norm(module_of(normed, layer, name).original_component)
    found = []
    for model in (plain, normed):
        cache, value = asked(model)
        found.append((value, tna.query_neurons(cache, value, 20, pos=POS)))
    for a, b in zip(*found, strict=True):
        assert a.labels == b.labels
        torch.testing.assert_close(a.score, b.score, atol=1e-9, rtol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("name", ["q", "k"])
def test_towers_of_changed_or_adapted_projections_are_refused(name):
    model = architectures.build("llama")
    prompts = tiny_prompts(model)
    tokens, mask = batch_of(model, prompts).inputs()
    _, cache = model.run_with_cache(tokens, **mask)
    two_towers(cache, prompts, layer=1, head=2)
    bridge = module_of(model, 1, name)
    before = copy.deepcopy(bridge.original_component.weight.data)
    bridge.original_component.weight.data.mul_(1.1)
    message = "weights do not give the cached (queries|keys) of layer 1.* changed since the run, an adapter"
    with pytest.raises(ValueError, match=message):
        two_towers(cache, prompts, layer=1, head=2)
    bridge.original_component.weight.data.copy_(before)
    bridge.set_original_component(LowRank(bridge.original_component))
    _, adapted = model.run_with_cache(tokens, **mask)
    with pytest.raises(ValueError, match=message):
        two_towers(adapted, prompts, layer=1, head=2)


@torch.no_grad()
@pytest.mark.parametrize("name", ["v", "o"])
def test_a_head_is_not_followed_through_changed_weights(name):
    model = architectures.build("llama")
    _, cache = model.run_with_cache(architectures.prompts(1))
    module_of(model, 1, name).original_component.weight.mul_(1.1)
    with pytest.raises(ValueError, match=CHANGED if name == "v" else "layer 1: the attn neurons"):
        cna.feature_transferring(cache, one_of_the_last_layer(), (1, 2))


@torch.no_grad()
@pytest.mark.parametrize("name, depths", [("neox_parallel", [0, 2, 4]), ("llama", [1, 3, 5])])
def test_a_parallel_mlp_is_fed_by_what_lies_below_its_block(name, depths):
    """An MLP behind attention lies a step deeper than that; beside it, both read the block's input."""
    _, cache = architectures.build(name).run_with_cache(architectures.prompts())
    _, rows = weighted_subkeys(cache, tna.value_neurons(cache, 5, 40, sites="mlp"))
    assert sorted(set(rows.depth.tolist())) == depths


def one_of_the_last_layer():
    none = torch.full((1,), -1)
    return tna.Neurons(
        site=torch.ones(1, dtype=torch.long), layer=torch.tensor([2]), head=none, source=none,
        index=torch.tensor([7]), coefficient=torch.zeros(1), score=torch.zeros(1),
    )  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_not_taken_for_a_change(name, dtype):
    cache, value = asked(architectures.build(name, dtype=dtype))
    assert len(tna.query_neurons(cache, value, 5, pos=POS)) == 5
