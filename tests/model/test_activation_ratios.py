"""Ratios of activations to their layer's median, by hand."""

import torch

from tests import architectures
from tl_neuron_attr.model.activation_ratios import activation_ratios


def test_ratios_and_positions_are_those_of_the_cache():
    model = architectures.build("llama")
    ids = architectures.prompts()[0]
    ratios, positions = activation_ratios(model, ids)
    _, cache = model.run_with_cache(ids[None])
    for layer in range(model.cfg.n_layers):
        size = cache[f"blocks.{layer}.mlp.hook_post"][0].float().abs()
        middle = size.flatten().sort().values[(size.numel() - 1) // 2]
        for index in (0, 11):
            assert torch.isclose(ratios[layer][index], size[:, index].max() / middle)
            assert size[positions[layer][index], index] == size[:, index].max()


def test_silent_neurons_leave_the_median_of_the_others():
    model = architectures.build("opt")
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.b_in -= 100.0  # ReLU: all silent
    ratios, _ = activation_ratios(model, architectures.prompts()[0])
    assert all(torch.equal(ratio, torch.zeros_like(ratio)) for ratio in ratios)
