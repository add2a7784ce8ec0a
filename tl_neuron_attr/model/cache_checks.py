"""Checks that a cache has what is computed from it: hooks, sizes, weights that can be read.

That they also add up is checked in :mod:`tl_neuron_attr.model.additive_checks`.
"""

from collections.abc import Callable
from typing import Any

from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.cached_hooks import computed_from
from tl_neuron_attr.model.norms import is_norm
from tl_neuron_attr.model.readable_blocks import unreadable
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.weights import block_weights
from tl_neuron_attr.numerics.sublayer import Site

_STREAM_HOOKS = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
_SITE_HOOKS = {"attn": ("attn.hook_pattern", "attn.hook_v"), "mlp": ("mlp.hook_post",)}


def require_hooks(stream: Stream, sites: tuple[Site, ...], *, reads: bool = False) -> None:
    """Refuse a cache that lacks what ``sites`` need; with ``reads``, the norms in front of them too.

    Raises:
        ValueError: Naming the missing hooks and a ``names_filter`` that suffices.
    """
    if not hasattr(stream.model, "ln_final"):
        raise ValueError(
            f"{type(stream.model.adapter).__name__} names no final norm: this architecture is not supported"
        )
    wanted = [
        *(["ln_final.hook_scale"] if is_norm(stream.model.ln_final) else []),
        *(f"blocks.{layer}.{hook}" for layer in range(stream.n_layers) for hook in _hooks_of(stream, layer, sites)),
        *(f"{norm}.hook_scale" for norm in _norms_read_through(stream, sites if reads else ())),
    ]
    read_off = [hook for name in wanted for hook in stream.hooks.behind(name)]
    missing = [name for name in read_off if name not in stream.cache]
    unknown = [name for name in missing if name not in stream.model.hook_dict]
    if unknown:
        raise ValueError(
            f"this architecture has no hook {', '.join(unknown[:4])}: {type(stream.block(0)).__name__} is not supported"
        )
    if missing:
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        raise ValueError(
            f"cache lacks {', '.join(missing[:4])}{more}; run_with_cache without stop_at_layer and without "
            f"names_filter, or with names_filter=lambda name: name.endswith({_needed(sites, stream.model)})"
        )
    _require_readable(stream)
    _require_sizes(stream)
    lengths = _lengths_attended(stream) if "attn" in sites else set[int]()
    if lengths - {stream.shape[1]}:
        raise ValueError(
            f"cache holds {stream.shape[1]} positions but attends to {max(lengths)}: it was made with pos_slice or "
            "past keys; run_with_cache on the whole prompt"
        )


def _require_readable(stream: Stream) -> None:
    """Refuse weights that cannot be read: those of blocks may be offloaded or quantised, where a library reads them.

    Raises:
        ValueError: Naming the layer and the weight.
    """
    for name in ("W_U", "ln_final"):
        module = stream.model.unembed if name == "W_U" else stream.model.ln_final
        if any(weight.is_meta for weight in module.parameters()):
            raise ValueError(
                f"{name} is offloaded to CPU or disk, and every score needs it: keep embedding, final norm and "
                "unembedding in memory (device_map), and offload blocks only"
            )
    for layer in range(stream.n_layers):
        at_hand = stream.weights(layer).at_hand  # and so readable
        if not at_hand and (found := unreadable(stream.block(layer))) is not None:
            raise ValueError(f"layer {layer}: {found}")


def _lengths_attended(stream: Stream) -> set[int]:
    """Return the numbers of positions that the first layer with attention attends to.

    Raises:
        ValueError: If no layer has softmax attention.
    """
    first = next((layer for layer in range(stream.n_layers) if stream.weights(layer).has_attn), None)
    if first is None:
        raise ValueError(
            "no layer of this model has softmax attention, so there are no heads and no attention neurons: pass "
            'sites=("mlp",), or use attribute_layers'
        )
    source = 2 if stream.weights(first).values_by_head else 1
    hooks = (("attn.hook_pattern", -1), ("attn.hook_v", source))
    return {stream.get(f"blocks.{first}.{hook}").shape[axis] for hook, axis in hooks}


def needed_by(sites: tuple[Site, ...], model: Any = None) -> Callable[[str], bool]:
    """Return a ``names_filter`` that caches what ``sites`` and the checks need.

    What the routers of a mixture return is among it only if the ``model`` is given.
    """
    suffixes = _needed(sites, model)
    return lambda name: name.endswith(suffixes)


def _needed(sites: tuple[Site, ...], model: Any = None) -> tuple[str, ...]:
    keys = ("mlp.hook_pre", "mlp.hook_pre_linear") if "mlp" in sites else ()  # query scores check subkeys on them
    mixtures = [block_weights(model, layer).experts for layer in range(len(model.blocks) if model and keys else 0)]
    routing = sorted({hook for experts in mixtures if experts for hook in experts.hooks})
    gates = ("attn.hook_q_gate", "attn.gate.hook_out") if "attn" in sites else ()
    more = computed_from(model) if model else ()
    of_sites = (*more, *_STREAM_HOOKS, *(hook for site in sites for hook in _SITE_HOOKS[site]), *gates)
    return (*of_sites, *keys, *routing, "hook_resid_mid", "hook_scale", "unembed.hook_out", "embed.hook_in")


def site_hooks(stream: Stream, layer: int, site: Site) -> tuple[str, ...]:
    """Return what the neurons of one sublayer need."""
    weights = stream.weights(layer)
    if site == "attn":
        return (*_SITE_HOOKS["attn"], *weights.gate_hooks) if weights.has_attn else ()
    return weights.experts.hooks if weights.experts else _SITE_HOOKS["mlp"]


def _hooks_of(stream: Stream, layer: int, sites: tuple[Site, ...]) -> list[str]:
    """Return the hooks that a layer has: one without an MLP has none of it, one with another mixer no attention's."""
    weights = stream.weights(layer)
    wanted = [*_STREAM_HOOKS, *(hook for site in sites for hook in site_hooks(stream, layer, site))]
    if not weights.has_attn:
        wanted[wanted.index("hook_attn_out")] = "hook_resid_mid"
    return [hook for hook in wanted if weights.has_mlp or "mlp" not in hook]


def _norms_read_through(stream: Stream, sites: tuple[Site, ...]) -> list[str]:
    every = [(layer, stream.weights(layer)) for layer in range(stream.n_layers)]
    named = [(layer, weights.pre_norm[site]) for layer, weights in every for site in sites]
    named += [(layer, weights.values_norm) for layer, weights in every if "attn" in sites]
    return [f"blocks.{layer}.{name}" for layer, name in named if name]


def require_mlp_neurons(stream: Stream) -> None:
    """Refuse models with MLPs whose neurons cannot be read, or without MLPs.

    Raises:
        ValueError: Naming the layers without neurons.
    """
    routed = [layer for layer in range(stream.n_layers) if not stream.has_mlp_neurons(layer)]
    if routed:
        raise ValueError(
            f"layers {routed} have no MLP neurons (a mixture whose experts cannot be read, or attention only); layers "
            'and heads still work: pass sites=("attn",), or use attribute_layers and attribute_heads'
        )


def _require_sizes(stream: Stream) -> None:
    """Refuse a model of another size than the one that made the cache."""
    stray = f"blocks.{stream.n_layers}.hook_resid_pre"
    sizes = {"d_model": (stream.shape[2], dimensions.d_model(stream.model))}
    if stream.has("unembed.hook_out"):
        sizes["d_vocab"] = (stream.get("unembed.hook_out").shape[-1], dimensions.d_vocab(stream.model))
    for name, (cached, own) in sizes.items():
        if cached != own:
            raise ValueError(f"model did not make this cache: its {name} is {own}, the cache's {cached}")
    if stream.has(stray):
        raise ValueError(f"model did not make this cache: it has {stream.n_layers} layers, the cache holds {stray}")


def require_sites(stream: Stream, sites: tuple[Site, ...], *, reads: bool = False) -> None:
    """Refuse a cache that lacks what ``sites`` need, and a model whose MLP neurons are asked for but cannot be read.

    Raises:
        ValueError: Naming the missing hooks, or the layers without neurons.
    """
    require_hooks(stream, sites, reads=reads)
    if "mlp" in sites:
        require_mlp_neurons(stream)
