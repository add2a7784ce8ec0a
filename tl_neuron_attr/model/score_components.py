"""Queries and keys as sums over what earlier components wrote into the stream: what splits an attention score."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr.model import attention_scores
from tl_neuron_attr.model.components import head_name
from tl_neuron_attr.model.positions import Positions
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.subkeys import components, depth_of


def score_components(
    stream: Stream, side: attention_scores.QueryOrKey, layer: int, head: int, places: Positions, heads: bool
) -> tuple[tuple[str, ...], Float[Tensor, "component batch d_head"], Float[Tensor, "batch d_head"]]:
    """Return what each component before a layer is in a head's queries or keys, and the cached vectors themselves.

    Args:
        stream: The stream.
        side: ``"q"`` or ``"k"``.
        layer: The head's layer.
        head: The head.
        places: Where.
        heads: Whether earlier attention layers are split into heads, and what none of them wrote.

    Returns:
        The components' names, the last of them ``bias``, which nothing in the stream wrote; what each is in the query
        or key, norms frozen; and the query or key, which is their sum.

    Raises:
        ValueError: If the components do not sum to what is cached.
    """
    names, summands = _by_component(stream, side, layer, head, places, heads)
    vector = attention_scores.cached_vector(stream, side, layer, head, places)
    attention_scores.require_projection(stream, summands, vector, side, layer)
    return names, summands, vector


def _by_component(
    stream: Stream, side: attention_scores.QueryOrKey, layer: int, head: int, places: Positions, heads: bool
) -> tuple[tuple[str, ...], Float[Tensor, "component batch d_head"]]:
    """Return what each component before the layer, and the biases, contribute to the head's queries or keys."""
    named = named_components(stream, places, depth_of("attn", layer), heads=heads)
    vectors = attention_scores.project(stream, side, layer, head, places, torch.stack([vector for _, vector in named]))
    return (*(name for name, _ in named), "bias"), vectors


def named_components(
    stream: Stream, places: Positions, depth: int, *, heads: bool
) -> list[tuple[str, Float[Tensor, "batch d_model"]]]:
    """Return the name and the write of every component below a depth; with ``heads``, attention head by head."""
    named: list[tuple[str, Tensor]] = []
    for own, written in components(stream, places):
        if own >= depth:
            break
        layer, is_mlp = divmod(own, 2)
        if heads and own >= 0 and not is_mlp and stream.weights(layer).has_attn:
            named += _by_head(stream, layer, places)
        else:
            named.append(("embed" if own < 0 else f"L{layer} {'mlp' if is_mlp else 'attn'}", written))
    return named


def _by_head(stream: Stream, layer: int, places: Positions) -> Sequence[tuple[str, Float[Tensor, "batch d_model"]]]:
    """Return what each head of a layer wrote, and what none of them wrote."""
    sublayer = stream.sublayer("attn", layer, places)
    summed = replace(sublayer, coefficients=sublayer.coefficients.sum(-1, keepdim=True))
    written = summed.head_writes()[:, :, 0]
    own = [(head_name(layer, h), written[:, h]) for h in range(sublayer.heads)]
    return [*own, (f"L{layer} attn bias", sublayer.bias)]
