"""How far each MLP neuron's activation stands out of its layer's: what massive activations are told by."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.model.dimensions import post_hook


@torch.no_grad()
def activation_ratios(
    model: Any, ids: Int[Tensor, "pos"]
) -> tuple[list[Float[Tensor, "d_mlp"]], list[Int[Tensor, "d_mlp"]]]:
    """Return, by layer, each MLP neuron's largest activation over the layer's median, in size, and its position.

    Where a layer's median is zero, as ReLU makes it, the median is of the activations that are not.
    """
    names = [post_hook(model, layer) for layer in range(model.cfg.n_layers)]
    _, cache = model.run_with_cache(ids[None], names_filter=names)
    ratios: list[Tensor] = []
    positions: list[Tensor] = []
    for name in names:
        size = cache[name][0].float().abs()
        median = size.median() if size.median() > 0 else size[size > 0].median().nan_to_num(1.0)
        largest = size.max(0)
        ratios.append(largest.values.cpu() / median.cpu())
        positions.append(largest.indices.cpu())
    return ratios, positions
