"""Checks a cache must pass before anything is computed from it: nothing is silently wrong.

Each check is linear in the stream at the scored position, so the whole guard costs a few per cent of a search.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr.model.positions import Positions
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.weights import is_norm
from tl_neuron_attr.numerics.readout import Readout
from tl_neuron_attr.numerics.sublayer import SITES, Site, Sublayer

_STREAM_HOOKS = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
_SITE_HOOKS = {"attn": ("attn.hook_pattern", "attn.hook_v"), "mlp": ("mlp.hook_post",)}
_SAMPLED_LOGITS = 256


def tolerance(dtype: torch.dtype) -> float:
    """The relative error allowed between two ways to compute an activation of ``dtype``.

    A float64 model is not much stricter than a float32 one: transformers computes RMSNorm in float32 all the same.
    """
    return {torch.float64: 1e-6, torch.float32: 1e-4}.get(dtype, 3e-2)


def require_hooks(stream: Stream, sites: tuple[Site, ...], *, reads: bool = False) -> None:
    """Refuse a cache that lacks what ``sites`` need; with ``reads``, the norms in front of them too.

    Raises:
        ValueError: Naming the missing hooks and the ``names_filter`` that would do.
    """
    wanted = [
        *(["ln_final.hook_scale"] if is_norm(stream.model.ln_final) else []),
        *(f"blocks.{layer}.{hook}" for layer in range(stream.n_layers) for hook in _hooks_of(stream, layer, sites)),
        *(f"{norm}.hook_scale" for norm in _norms_read_through(stream, sites if reads else ())),
    ]
    missing = [name for name in wanted if not stream.has(name)]
    if missing:
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        raise ValueError(
            f"cache lacks {', '.join(missing[:4])}{more}; run_with_cache without stop_at_layer and without "
            f"names_filter, or with names_filter=lambda name: name.endswith({_needed(sites)})"
        )
    lengths = (
        {stream.get(f"blocks.0.{h}").shape[d] for h, d in (("attn.hook_pattern", -1), ("attn.hook_v", 1))}
        if "attn" in sites
        else set[int]()
    )
    if lengths - {stream.shape[1]}:
        raise ValueError(
            f"cache holds {stream.shape[1]} positions but attends to {max(lengths)}: it was made with pos_slice or "
            "past keys; run_with_cache on the whole prompt"
        )


def needed_by(sites: tuple[Site, ...]) -> Callable[[str], bool]:
    """A ``names_filter`` that caches what ``sites`` need, and what the guard looks at."""
    suffixes = _needed(sites)
    return lambda name: name.endswith(suffixes)


def _needed(sites: tuple[Site, ...]) -> tuple[str, ...]:
    keys = ("mlp.hook_pre", "mlp.hook_pre_linear") if "mlp" in sites else ()  # query scores check subkeys on them
    return (*_block_hooks(sites), *keys, "hook_resid_mid", "hook_scale", "unembed.hook_out", "embed.hook_in")


def _block_hooks(sites: tuple[Site, ...]) -> tuple[str, ...]:
    return (*_STREAM_HOOKS, *(hook for site in sites for hook in _SITE_HOOKS[site]))


def _hooks_of(stream: Stream, layer: int, sites: tuple[Site, ...]) -> list[str]:
    """Return the hooks that a layer has: an attention-only model has none of an MLP."""
    return [hook for hook in _block_hooks(sites) if stream.weights(layer).has_mlp or "mlp" not in hook]


def _norms_read_through(stream: Stream, sites: tuple[Site, ...]) -> list[str]:
    named = [(layer, stream.weights(layer).pre_norm[site]) for layer in range(stream.n_layers) for site in sites]
    return [f"blocks.{layer}.{name}" for layer, name in named if name]


def require_mlp_neurons(stream: Stream) -> None:
    """Refuse models whose MLPs are routed experts.

    Raises:
        ValueError: Naming the layers without neurons.
    """
    routed = [layer for layer in range(stream.n_layers) if not stream.has_mlp_neurons(layer)]
    if routed:
        raise ValueError(
            f"layers {routed} have no MLP neurons (mixture of experts, or attention only); layers and heads still "
            'work: pass sites=("attn",), or use attribute_layers and attribute_heads'
        )


def require_real_positions(stream: Stream, places: Positions, *, given: bool) -> None:
    """Refuse positions that are padding, as far as a cache shows it.

    A masked position attends to nothing, so its pattern is flat over the future too. Right padding without a mask
    leaves no trace but the token itself, which is looked at where ``pos`` was not given.

    Raises:
        ValueError: Naming the prompts.
    """
    pattern = stream.get("blocks.0.attn.hook_pattern")[places.row, :, places.pos]
    future = torch.arange(pattern.shape[-1], device=pattern.device) > places.pos[:, None]
    masked = (pattern.sum(1) * future).sum(-1) > 0
    masked |= pattern[places.row, :, places.pos].sum(-1) == 0  # nothing to itself either
    if not given and stream.shape[0] > 1:
        masked |= _ends_in_padding(stream)
    if bool(masked.any()):
        raise ValueError(
            f"pos is on padding for prompts {masked.nonzero()[:, 0].tolist()}: pass pos=, the last real position of "
            'each prompt, or pad on the left (padding_side="left")'
        )


def _ends_in_padding(stream: Stream) -> Tensor:
    pad = getattr(stream.model.tokenizer, "pad_token_id", None)
    tokens = stream.tokens()
    if pad is None or tokens is None:
        return torch.zeros(stream.shape[0], dtype=torch.bool, device=stream.device)
    return tokens[:, -1] == pad


def require_additive(stream: Stream, readout: Readout, places: Positions) -> None:
    """Refuse a cache whose sublayers do not add up to the stream, or whose stream does not read out to its logits.

    Raises:
        ValueError: Naming the layer, or the tensor that is not finite.
    """
    allowed = tolerance(stream.cache["blocks.0.hook_resid_pre"].dtype)
    for layer in range(stream.n_layers):
        before, after = (stream.at(f"blocks.{layer}.{hook}", places) for hook in ("hook_resid_pre", "hook_resid_post"))
        outs = [stream.out(site, layer, places) for site in SITES]
        if not _close(before + outs[0] + outs[1], after, allowed):
            _refuse(stream, f"layer {layer}: resid_pre + attn_out + mlp_out != resid_post")
    if not stream.has("unembed.hook_out"):
        return
    final = stream.at(f"blocks.{stream.n_layers - 1}.hook_resid_post", places)
    some = slice(None, None, max(1, readout.d_vocab // _SAMPLED_LOGITS))
    W_U = readout.W_U[:, some].to(readout.dtype)
    computed = (readout.norm(final) + readout.norm_bias) @ W_U + readout.b_U[some]
    if not _close(computed, stream.at("unembed.hook_out", places)[:, some], allowed):
        _refuse(stream, "the readout of the final stream is not the model's logits")


def require_neurons_add_up(
    stream: Stream,
    sublayer: Sublayer,
    along: Float[Tensor, "batch d_model"],
    terms: Float[Tensor, "batch neuron source"],
) -> None:
    """Refuse a sublayer whose neurons do not sum to its output, seen along one direction a prompt.

    Args:
        stream: The stream the sublayer is of.
        sublayer: The sublayer.
        along: The direction.
        terms: What each neuron wrote along it.

    Raises:
        ValueError: Naming the layer and site.
    """
    allowed = tolerance(stream.cache["blocks.0.hook_resid_pre"].dtype)
    whole = ((sublayer.out - sublayer.bias) * along).sum(-1)
    reach = (sublayer.out - sublayer.bias).norm(dim=-1) * along.norm(dim=-1) + terms.abs().sum((1, 2)) / 10
    if not bool(((terms.sum((1, 2)) - whole).abs() <= allowed * reach).all()):
        _refuse(
            stream,
            f"layer {sublayer.layer}: the {sublayer.site} neurons and biases do not sum to hook_{sublayer.site}_out",
        )


def require_finite(stream: Stream, values: Tensor, what: str) -> None:
    """Refuse results with a NaN or an Inf.

    Raises:
        ValueError: Naming the tensor it came from.
    """
    if not bool(values.isfinite().all()):
        _refuse(stream, f"{what} are not finite")


def _close(a: Tensor, b: Tensor, allowed: float) -> bool:
    return bool(((a - b).norm(dim=-1) <= allowed * (b.norm(dim=-1) + torch.finfo(b.dtype).tiny)).all())


def _refuse(stream: Stream, finding: str) -> None:
    culprit = _not_finite(stream)
    if culprit is not None:
        raise ValueError(
            f"{culprit} holds NaN or Inf; the run that made this cache is broken (dtype, weights or a hook)"
        )
    raise ValueError(
        f"this architecture's hooks are not additive ({finding}): its scores would be wrong. If a hook edits "
        "activations, make the cache without it"
    )


def _not_finite(stream: Stream) -> str | None:
    """The first tensor on the way of the stream that is not finite."""
    for layer in range(stream.n_layers):
        for hook in (*_STREAM_HOOKS, "attn.hook_v", "attn.hook_pattern", "mlp.hook_post"):
            name = f"blocks.{layer}.{hook}"
            if stream.has(name) and not bool(stream.cache[name].isfinite().all()):
                return name
        for name, weight in _weights(stream.block(layer)):
            if weight is not None and not bool(weight.isfinite().all()):
                return f"blocks.{layer}.{name}"
    final = getattr(stream.model.ln_final, "w", None)
    for name, weight in (("W_U", stream.model.W_U), ("b_U", stream.model.b_U), ("ln_final.w", final)):
        if weight is not None and not bool(weight.isfinite().all()):
            return name
    return None


def _weights(block: Any) -> list[tuple[str, Any]]:
    parts = ((block.attn, "attn", ("W_O", "b_O")), (getattr(block, "mlp", None), "mlp", ("W_out", "b_out")))
    return [(f"{part}.{name}", getattr(module, name, None)) for module, part, names in parts for name in names]
