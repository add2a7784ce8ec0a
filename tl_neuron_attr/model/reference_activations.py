"""What MLP neurons do on other prompts: what a neuron taken out is replaced by where zero is no natural value."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.model.dimensions import post_hook


def mean_activation(
    model: Any, prompts: Sequence[Int[Tensor, "_"]], layer: Int[Tensor, "n"], index: Int[Tensor, "n"], seed: int
) -> Float[Tensor, "n"]:
    """Return each neuron's mean activation over all positions of the prompts; nothing is drawn."""
    return _activations(model, prompts, layer, index).mean(0)


def resampled_activation(
    model: Any, prompts: Sequence[Int[Tensor, "_"]], layer: Int[Tensor, "n"], index: Int[Tensor, "n"], seed: int
) -> Float[Tensor, "n"]:
    """Return each neuron's activation at a position of the prompts drawn for it."""
    values = _activations(model, prompts, layer, index)
    drawn = torch.randint(len(values), (values.shape[1],), generator=torch.Generator().manual_seed(seed))
    return values[drawn, torch.arange(values.shape[1])]


@torch.no_grad()
def _activations(
    model: Any, prompts: Sequence[Int[Tensor, "_"]], layer: Int[Tensor, "n"], index: Int[Tensor, "n"]
) -> Float[Tensor, "place n"]:
    """Return the neurons' activations at every position of the prompts, one after another."""
    found: list[Tensor] = []
    layers = sorted(set(layer.tolist()))
    for ids in prompts:
        names = [post_hook(model, each) for each in layers]
        _, cache = model.run_with_cache(ids[None], names_filter=names)
        by_layer = {each: cache[name][0] for each, name in zip(layers, names, strict=True)}
        columns = [by_layer[la][:, i] for la, i in zip(layer.tolist(), index.tolist(), strict=True)]
        found.append(torch.stack(columns, dim=1).cpu())
    return torch.cat(found)
