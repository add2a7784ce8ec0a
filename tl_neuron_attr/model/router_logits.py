"""A router's logits as sums over what earlier components wrote into the stream.

A router reads what its layer's MLP reads, through the same norm. Its logit of an expert is linear in that, so with the
norm's scale frozen it is a sum over the components below.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr.model.additive_checks import tolerance
from tl_neuron_attr.model.positions import Positions
from tl_neuron_attr.model.score_components import named_components
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.subkeys import depth_of


def router_logits(
    stream: Stream, layer: int, places: Positions, *, heads: bool
) -> tuple[tuple[str, ...], Float[Tensor, "batch expert component"], Float[Tensor, "batch expert"]]:
    """Return what each component below a layer's router adds to its logits, and the logits that the model cached.

    Args:
        stream: The stream.
        layer: The layer.
        places: Where.
        heads: Whether attention layers below are split into heads, and what none of them wrote.

    Returns:
        The components' names, the last of them ``bias``, which nothing in the stream wrote; what each adds to the logit
        of each expert; and the logits, which are their sums.

    Raises:
        ValueError: If the layer has no experts that can be read, the cache holds no logits of its router, or none that
            the components add up to.
    """
    weights = stream.weights(layer)
    read = None if weights.live_experts is None else weights.live_experts.router_weight()
    if read is None:
        routed = [i for i in range(stream.n_layers) if stream.weights(i).experts]
        raise ValueError(
            f"layer {layer} has no router that can be read; those of layers {routed} can"
            if routed
            else f"layer {layer} has no router: this model is no mixture of experts, or one that cannot be read"
        )
    rows = read[0].to(stream.dtype)
    constant = torch.zeros(len(rows)).to(rows) if read[1] is None else read[1].to(rows)
    constant = constant.expand(len(places), -1)
    directions = rows.expand(len(places), *rows.shape)
    if name := weights.pre_norm["mlp"]:
        norm, norm_bias = stream.norm(layer, name, places), weights.norm_bias(name)
        if norm_bias is not None:
            constant = constant + rows @ norm_bias.to(stream.dtype)
        directions = norm.adjoint(rows) / norm.scale[:, None, None]
    depth = 2 * layer if weights.parallel else depth_of("mlp", layer)
    named = named_components(stream, places, depth, heads=heads)
    written = torch.stack([vector for _, vector in named], dim=1)
    contribution = torch.cat([torch.einsum("bed,bcd->bec", directions, written), constant[..., None]], dim=-1)
    return (*(name for name, _ in named), "bias"), contribution, _cached(stream, layer, places, contribution)


def _cached(
    stream: Stream, layer: int, places: Positions, contribution: Float[Tensor, "batch expert component"]
) -> Float[Tensor, "batch expert"]:
    """Return the cached logits that components add up to; routers keep them under several names.

    Raises:
        ValueError: If there are none.
    """
    batch, length, _ = stream.shape
    size, at = (batch * length, contribution.shape[1]), places.row * length + places.pos
    under = f"blocks.{layer}.mlp."
    found = {name: stream.cache[name] for name in stream.cache if name.startswith(under)}
    logits = [each for each in found.values() if each.is_floating_point() and each.numel() == size[0] * size[1]]
    for each in logits:
        own = each.to(stream.device).reshape(size)[at]
        allowed = tolerance(own.dtype) * contribution.abs().sum(-1)
        if bool(((contribution.sum(-1) - own).abs() <= allowed).all()):
            return own.to(stream.dtype)
    raise ValueError(
        f"the components below do not add up to the router's logits of layer {layer} in the cache: the weights were "
        "changed since the run, or this router is not one linear map"
        if logits
        else f"cache holds no logits of the router of layer {layer}: run_with_cache without names_filter"
    )
