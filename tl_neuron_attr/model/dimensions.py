"""A model's sizes, read off its weights: a config may say something else (OPT, Bloom)."""

from typing import Any

import torch

from tl_neuron_attr.model.hook_points import mlp_post_hook
from tl_neuron_attr.model.weights import block_weights
from tl_neuron_attr.numerics.sublayer import Site


def d_vocab(model: Any) -> int:
    """Return the size of the vocabulary."""
    return model.W_U.shape[1]


def d_model(model: Any) -> int:
    """Return the width of the residual stream."""
    return model.W_U.shape[0]


def sizes_of(model: Any) -> tuple[int, int, int]:
    """Return the number of layers, the width and the size of the vocabulary."""
    return len(model.blocks), d_model(model), d_vocab(model)


def n_heads(model: Any, layer: int) -> int:
    """Return the number of attention heads of a layer; 0 where it mixes positions otherwise."""
    return block_weights(model, layer).n_heads


def most_heads(model: Any) -> int:
    """Return the number of attention heads of the layer that has most."""
    return max(n_heads(model, layer) for layer in range(model.cfg.n_layers))


def d_head(model: Any, layer: int) -> int:
    """Return the number of dimensions, or attention neurons, of each head of a layer."""
    return block_weights(model, layer).d_head


def head_sizes(model: Any, layer: int) -> tuple[int, int]:
    """Return the number of attention heads of a layer and of the dimensions of each."""
    weights = block_weights(model, layer)
    return weights.n_heads, weights.d_head


def d_mlp(model: Any, layer: int) -> int:
    """Return the number of MLP neurons of a layer, those of all experts of a mixture.

    Raises:
        ValueError: If the layer is a mixture whose experts cannot be read, or has no MLP.
    """
    weights = block_weights(model, layer)
    if not weights.has_mlp_neurons:
        raise ValueError(
            f"layer {layer} has no MLP neurons (a mixture whose experts cannot be read, or attention only)"
        )
    return weights.d_mlp


def post_hook(model: Any, layer: int) -> str:
    """Return the hook at which the MLP neurons of a layer can be changed one by one.

    Raises:
        ValueError: If the layer is a mixture of experts, whose neurons have no hook.
    """
    weights = block_weights(model, layer)
    if weights.experts or (weights.has_mlp and not weights.has_mlp_neurons):
        raise ValueError(
            f"layer {layer} is a mixture of experts, whose neurons have no hook of their own: this method needs dense "
            "MLPs; scores, ablate, edit and verify work"
        )
    return mlp_post_hook(layer)


def width(model: Any, site: Site, layer: int) -> int | tuple[int, int]:
    """Return the number of MLP neurons of a layer, or its heads and their dimensions."""
    return d_mlp(model, layer) if site == "mlp" else head_sizes(model, layer)


def device_of(model: Any) -> torch.device:
    """Return where tokens and logits live."""
    return model.W_U.device


def dtype_of(model: Any) -> torch.dtype:
    """Return the dtype of the unembedding."""
    return model.W_U.dtype
