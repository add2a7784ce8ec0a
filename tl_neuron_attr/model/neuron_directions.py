"""What neurons write, as it enters the stream, and what a head makes of vectors of the stream."""

from collections.abc import Iterable
from functools import cache, partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr.model.head_projections import values_layer
from tl_neuron_attr.model.weights import BlockWeights, block_weights
from tl_neuron_attr.model.within import within
from tl_neuron_attr.numerics.sublayer import Site, score_dtype


def directions_of(model: Any, neurons: Iterable[tuple[Site, int, int, int]]) -> list[Float[Tensor, "d_model"]]:
    """Return the write direction of each neuron as it enters the stream, up to a positive factor.

    A neuron is its site, layer, head and index; the weights of a layer are looked up once.

    Raises:
        IndexError: If there is no such neuron, with the valid range.
    """
    weights = cache(partial(block_weights, model))
    return [_direction(weights(layer), site, layer, head, index) for site, layer, head, index in neurons]


def _direction(weights: BlockWeights, site: Site, layer: int, head: int, index: int) -> Float[Tensor, "d_model"]:
    if site == "attn":
        weights.require_head(layer, head)
    rows = weights.directions("mlp") if site == "mlp" else weights.W_O[head]
    within(f"neuron index in layer {layer}", index, len(rows))
    return weights.as_written(site, rows[index].to(score_dtype(rows.dtype)))


def through_head(
    model: Any, vectors: Float[Tensor, "*n d_model"], layer: int, head: int | None
) -> Float[Tensor, "*n d_model"]:
    """Return vectors of the stream as a head moves them, ``W_O W_V norm(v)``, up to positive factors (norms' scales).

    Without a head, as all heads of the layer do, each attending fully.

    Raises:
        IndexError: If there is no such layer or head, with the valid range.
    """
    weights = block_weights(model, layer)
    weights.require_head(layer, head)
    source = block_weights(model, values_layer(model, layer))
    name = source.pre_norm["attn"]
    normed = source.norm(name, vectors.dtype).apply_unscaled(vectors) if name else vectors
    W_V, W_O = source.by_head("v"), weights.W_O
    chosen = slice(None) if head is None else slice(head, head + 1)
    values = normed @ W_V[chosen].transpose(0, 1).flatten(1).to(vectors.dtype)
    return weights.as_written("attn", values @ W_O[chosen].flatten(0, 1).to(vectors.dtype))
