"""Checks that weights and cache belong together: pre-activations, values and coefficients are compared.

Subkeys are computed from the weights the model has now, and everything else is read from the cache. So what the weights
give is compared with what was cached: weights edited since the run, an adapter that the weights do not show, or a norm
that works otherwise are refused.
"""

from bisect import bisect_right

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.model.additive_checks import ROUNDED, tolerance
from tl_neuron_attr.model.head_projections import values_layer
from tl_neuron_attr.model.positions import Positions
from tl_neuron_attr.model.readable_blocks import rounds_activations
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.numerics.sublayer import SITES, Site
from tl_neuron_attr.results.neuron_file import PLACE
from tl_neuron_attr.results.neurons import Neurons

PRE_ACTIVATIONS = ("mlp.hook_pre", "mlp.hook_pre_linear", "attn.hook_v")
"""What computed pre-activations are compared with; the second in gated MLPs only."""


def require_values(stream: Stream, layer: int, places: Positions) -> None:
    """Refuse weights that do not give the cached values of a layer's heads at each place.

    Raises:
        ValueError: Naming the attention neuron, and the two values; or that values pass a norm, which is not followed.
    """
    if stream.weights(layer).values_norm or values_layer(stream.model, layer) != layer:
        raise ValueError(
            f"the values of layer {layer} pass a norm of their own or are another layer's, which is not followed back: "
            "scores, query neurons, ablate and verify work, this method does not"
        )
    weights, heads = stream.weights(layer), range(stream.weights(layer).n_heads)
    read = stream.base("attn", layer, places)
    if name := weights.pre_norm["attn"]:
        norm_bias = weights.norm_bias(name)
        read = stream.norm(layer, name, places)(read)
        read = read if norm_bias is None else read + norm_bias.to(stream.dtype)
    cached = stream.values_at(layer, places)
    for head in heads[:: weights.shared_by("v")]:
        projection, bias = weights.projection("v", head)
        W_V, constant = projection.to(stream.dtype), 0.0 if bias is None else bias.to(stream.dtype)
        size = (read.square() @ W_V.square()).sqrt()
        names = [f"L{layer}H{head}D{i}" for _ in range(len(places)) for i in range(weights.d_head)]
        own = cached[:, head // weights.shared_by("v")]
        require_same(stream, layer, (read @ W_V + constant).flatten(), own.flatten(), size.flatten(), names)


def require_same(
    stream: Stream,
    layer: int,
    computed: Float[Tensor, "n"],
    cached: Float[Tensor, "n"],
    size: Float[Tensor, "n"],
    names: list[str],
) -> None:
    """Refuse pre-activations computed from the weights that are not the cached ones.

    Args:
        stream: The stream.
        layer: The layer that reads it; where its weights are of 8 bit, which round it, they are as far off as that.
        computed: What the weights give.
        cached: What the cache holds.
        size: The root sum of squares of the products that were added: their sum is off by that times the rounding of
            one of them, whatever it cancels to.
        names: The neurons.

    Raises:
        ValueError: Naming the first neuron, and the two values.
    """
    own = ROUNDED if rounds_activations(stream.block(layer)) else 0.0
    allowed = max(tolerance(stream.cache["blocks.0.hook_resid_pre"].dtype), own) * (size + cached.abs())
    wrong = ~((computed - cached).abs() <= allowed)
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0])
        raise ValueError(
            f"the model's weights do not give the cached activations: {names[i]} reads {float(cached[i]):.4g} in the "
            f"cache and {float(computed[i]):.4g} by its weights. They were changed since the run, or an adapter is "
            "attached: merge it, and make the cache anew"
        )


def cached_pre_activations(
    stream: Stream, layer: int, index: Int[Tensor, "n"], places: Positions, which: str
) -> Float[Tensor, "n"]:
    """Return what the run cached of the neurons' pre-activations, place ``i`` for neuron ``index[i]``.

    Raises:
        ValueError: If the cache lacks them.
    """
    hook = _pre_activation_hook(stream, layer, which)
    if not stream.has(hook):
        raise ValueError(
            f"cache lacks {hook}, which shows whether the weights are still those of the run: run_with_cache without "
            f"names_filter, or let names that end in {PRE_ACTIVATIONS} through too"
        )
    cached = stream.values_at(layer, places) if which == "v" else stream.at(hook, places)
    if which == "v":
        cached = cached.repeat_interleave(stream.weights(layer).n_heads // cached.shape[1], dim=1).flatten(1)
    return cached[torch.arange(len(index), device=stream.device), index]


def _pre_activation_hook(stream: Stream, layer: int, which: str) -> str:
    if which == "v":
        return f"blocks.{layer}.attn.hook_v"
    second = which == "in" and stream.weights(layer).gated
    return f"blocks.{layer}.mlp.{'hook_pre_linear' if second else 'hook_pre'}"


def neuron_name(stream: Stream, site: Site, layer: int, index: int) -> str:
    """Return the label of a neuron; an attention neuron's index counts dimensions through all heads."""
    if site == "mlp":
        experts = stream.weights(layer).experts
        if experts is None:
            return f"L{layer}N{index}"
        expert = bisect_right(experts.starts, index) - 1
        return f"L{layer}E{expert}N{index - experts.starts[expert]}"
    head, dimension = divmod(index, stream.weights(layer).d_head)
    return f"L{layer}H{head}D{dimension}"


def sublayers_of(site: Tensor, layer: Tensor) -> list[tuple[Site, int]]:
    """Return the site and layer of every sublayer that neurons are of, each once."""
    pairs = torch.stack([site, layer], dim=1).unique(dim=0).tolist()
    return [(SITES[s], la) for s, la in pairs]


def require_same_cache(stream: Stream, value: Neurons, scored: Positions, name: str = "value") -> None:
    """Refuse neurons whose coefficients are not those of the cache at the scored position.

    Args:
        stream: The cache's stream.
        value: The neurons, prompts one after another.
        scored: The place of each; of an answer its tokens', the neurons once for each, of which one must fit.
        name: What the neurons are called.

    Raises:
        ValueError: Naming the first such neuron, and both coefficients.
    """
    given = value.coefficient.flatten()
    found = _cached_coefficients(stream, value, scored).reshape(-1, len(given)).to(given.dtype)
    apart = (found - given).abs()
    wrong = (apart > 1e-3 * (1e-3 + found.abs())).all(0)
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0])
        raise ValueError(
            f"{name} is of another cache or position: {value.flat_labels[i]} has coefficient "
            f"{float(given[i]):.4f} in {name} and {float(found[apart[:, i].argmin(), i]):.4f} in cache"
        )


def _cached_coefficients(stream: Stream, neurons: Neurons, places: Positions) -> Float[Tensor, "place"]:
    """Return what the cache holds at each place, the neurons repeated for as many places as there are."""
    times = len(places) // neurons.site.numel()
    site, layer, head, source, index = (getattr(neurons, name).flatten().repeat(times) for name in PLACE)
    found = torch.empty(len(places), dtype=stream.dtype, device=stream.device)
    for s, la in sublayers_of(site, layer):
        mine = ((site == SITES.index(s)) & (layer == la)).nonzero()[:, 0]
        at, n = places.select(mine), torch.arange(len(mine), device=stream.device)
        found[mine] = (
            stream.mlp_coefficients(la, at)[n, index[mine]]
            if s == "mlp"
            else stream.attn_coefficients(la, at)[n, head[mine], index[mine], source[mine]]
        ).to(found.dtype)
    return found
