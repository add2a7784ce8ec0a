"""Weights, caches and neurons that do not belong together are refused."""

import dataclasses
from contextlib import nullcontext

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tests.model.test_subkeys import CHANGED, POS, asked, module_of
from tl_neuron_attr.model.positions import Positions
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.subkey_checks import require_values


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "neox_parallel"])
@pytest.mark.parametrize("changed", ["W_in", "W_gate", "W_V", "ln1", "ln2"])
def test_weights_changed_since_the_run_are_refused(name, changed):
    model = architectures.build(name)
    cache, value = asked(model)
    for block in model.blocks:
        if changed in ("ln1", "ln2"):
            getattr(block, changed).original_component.weight.mul_(1.2).add_(0.05)
        elif changed == "W_gate":
            if getattr(block.mlp, "W_gate", None) is None:
                pytest.skip("no gates")
            block.mlp.gate.original_component.weight.mul_(1.1)
        elif changed == "W_V":
            block.attn.W_V.mul_(1.1)
            if name == "neox_parallel":
                block.attn.original_component.query_key_value.weight.mul_(1.1)
        else:
            block.mlp.W_in.mul_(1.1)
    for function in (tna.query_layers, lambda c, v, pos: tna.query_neurons(c, v, 5, pos=pos)):
        with pytest.raises(ValueError, match=CHANGED):
            function(cache, value, pos=POS)


@torch.no_grad()
def test_a_change_of_any_one_value_is_seen():
    """The weights of a value add up with either sign: the size that an error is compared with is of their squares."""
    model = architectures.build("llama")
    _, cache = model.run_with_cache(architectures.prompts())
    weight = module_of(model, 0, "v").original_component.weight
    for row in range(len(weight)):
        weight[row].mul_(1.1)
        with pytest.raises(ValueError, match=rf"L0H\d+D{row % model.cfg.d_head} reads"):
            require_values(Stream(cache), 0, Positions(torch.arange(2), POS))
        weight[row].div_(1.1)


@torch.no_grad()
@pytest.mark.parametrize("changed", ["W_out", "W_O"])
def test_what_query_neurons_wrote_is_checked_too(changed):
    model = architectures.build("llama")
    cache, value = asked(model)
    bridge = module_of(model, 0, "out" if changed == "W_out" else "o")
    bridge.original_component.weight.mul_(1.1)
    with pytest.raises(ValueError, match="layer 0"):
        tna.query_neurons(cache, value, 5, pos=POS, sites=("mlp", "attn"))


@torch.no_grad()
def test_value_neurons_whose_coefficients_are_a_hundredth_off_are_of_another_cache():
    cache, value = asked(architectures.build("llama"))
    for off, refused in ((1.0001, False), (1.01, True)):
        other = dataclasses.replace(value, coefficient=off * value.coefficient)
        with pytest.raises(ValueError, match="value is of another cache") if refused else nullcontext():
            tna.query_layers(cache, other, pos=POS)


def test_a_cache_without_pre_activations_is_refused_where_a_subkey_is_read():
    model = architectures.build("llama")
    _, cache = model.run_with_cache(architectures.prompts(), names_filter=lambda name: "hook_pre" not in name)
    value = tna.value_neurons(cache, 5, 8, pos=POS, sites=("mlp",))
    with pytest.raises(ValueError, match=r"cache lacks blocks.\d.mlp.hook_pre, which shows whether the weights are"):
        tna.query_layers(cache, value, pos=POS)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "gpt2", "olmo2"])
def test_values_of_the_run_itself_pass(name):
    """With a norm in front of attention, with its bias, and without one."""
    _, cache = architectures.build(name).run_with_cache(architectures.prompts())
    require_values(Stream(cache), 1, Positions(torch.arange(2), POS))


@torch.no_grad()
@pytest.mark.parametrize("off", [0.99, 1.01])
def test_one_coefficient_off_to_either_side_is_seen(off):
    cache, value = asked(architectures.build("llama"))
    for i in range(3):
        coefficient = value.coefficient.clone()
        coefficient[:, i] *= off
        with pytest.raises(ValueError, match="value is of another cache"):
            tna.query_layers(cache, dataclasses.replace(value, coefficient=coefficient), pos=POS)
