"""Checks that a cache adds up: sublayers to the stream, neurons to sublayers, the stream to the logits.

Each check is linear in the stream, so that all of them cost a few per cent of a search.
"""

import warnings
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr.model.cache_checks import site_hooks
from tl_neuron_attr.model.finite_checks import first_not_finite
from tl_neuron_attr.model.norms import is_norm
from tl_neuron_attr.model.positions import Positions
from tl_neuron_attr.model.readable_blocks import rounds_activations
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.numerics.readout import Readout
from tl_neuron_attr.numerics.sublayer import SITES, Sublayer

_SAMPLED_LOGITS = 256
"""The number of logits compared with the readout's: a wrong readout gets nearly all of them wrong."""

_SAME = 1e-6
"""The relative error allowed where the model's own sum is repeated in its own precision: a few of its last bits."""

_EPS = 1e-4
"""What a norm's epsilon, unknown where its module is no norm of TransformerLens, makes of a vector."""

ROUNDED = 0.05
"""The relative error allowed where 8-bit weights round what they read: four times what tiny random models have."""

TINY = 1e-30
"""A vector with a smaller norm has no direction."""


def tolerance(dtype: torch.dtype) -> float:
    """Return the relative error allowed between two ways to compute an activation of ``dtype``.

    A float64 model gets little less than a float32 one: transformers computes RMSNorm in float32 for both.
    """
    return {torch.float64: 1e-6, torch.float32: 1e-4}.get(dtype, 3e-2)


def require_additive(stream: Stream, readout: Readout, places: Positions) -> None:
    """Refuse a cache whose sublayers do not add up to the stream, or whose stream does not read out to its logits.

    The stream is followed at every position, since query scores look back along it: within a block, between attention
    and MLP, and from one block to the next.

    Raises:
        ValueError: Naming the layer and hook, or the tensor that is not finite.
    """
    allowed = tolerance(stream.cache["blocks.0.hook_resid_pre"].dtype)
    _require_embedding(stream, allowed)
    for layer in range(stream.n_layers):
        _require_block_adds_up(stream, layer, allowed)
    final = stream.final(places)
    if stream.has("ln_final.hook_normalized"):
        norm = replace(readout.norm, weight=torch.ones_like(readout.norm.weight))
        if not _close(norm(final), stream.at("ln_final.hook_normalized", places), allowed):
            _refuse(stream, "ln_final.hook_normalized is not the final stream after the norm", edited="ln_final")
    if stream.has("unembed.hook_out"):
        require_logits(stream, readout, places)
    else:
        _require_own_model(stream, places)


def require_logits(stream: Stream, readout: Readout, places: Positions) -> None:
    """Refuse a readout that does not give the cached logits, of every so manyth token.

    Raises:
        ValueError: Saying what was changed.
    """
    final, allowed = stream.final(places), tolerance(stream.cache["blocks.0.hook_resid_pre"].dtype)
    some = slice(None, None, max(1, readout.d_vocab // _SAMPLED_LOGITS))
    W_U = readout.W_U[:, some].to(readout.dtype)
    computed = (readout.norm(final) + readout.norm_bias) @ W_U + readout.b_U[some]
    if not _close(computed, stream.at("unembed.hook_out", places)[:, some], allowed):
        _refuse(stream, "the readout of the final stream is not the model's logits", edited="the final norm or W_U")


def _require_embedding(stream: Stream, allowed: float) -> None:
    """Refuse a first stream that is not the embedding: what a hook put there would count as the tokens' share.

    Positions that are added without a hook (XGLM) cannot be told apart from the model's own doing, and pass. A norm
    behind the embedding is allowed where the final norm has no weight (NanoChat), since the same module is both.
    """
    first = "blocks.0.hook_resid_pre"
    hidden = stream.model.cfg.positional_embedding_type == "standard" and not stream.has("hook_pos_embed")
    if hidden or not stream.has("hook_embed") or _is_same(stream, "hook_embed", first):
        return
    embedded = stream.get("hook_embed")
    if stream.has("hook_pos_embed"):
        embedded = embedded + stream.get("hook_pos_embed")
    same = _SAME if allowed <= _EPS else allowed  # half precision is added here in float32
    if _close(embedded, stream.get(first), same):
        return
    normed = embedded / embedded.square().mean(-1, keepdim=True).sqrt().clamp_min(TINY)
    if not (_norms_without_weight(stream.model) and _close(normed, stream.get(first), max(allowed, _EPS))):
        _refuse(stream, "the embedding is not the first block's resid_pre", edited=first)


def _norms_without_weight(model: Any) -> bool:
    norm = model.ln_final
    return is_norm(norm) and norm.uses_rms_norm and getattr(norm, "w", None) is None


def _require_block_adds_up(stream: Stream, layer: int, allowed: float) -> None:
    at = f"blocks.{layer}."
    before, after = stream.get(f"{at}hook_resid_pre"), stream.get(f"{at}hook_resid_post")
    attn, mlp = (
        stream.get(f"{at}hook_{site}_out") if stream.has(f"{at}hook_{site}_out") else torch.zeros_like(before)
        for site in SITES
    )
    if not stream.weights(layer).has_attn:
        attn = stream.get(f"{at}hook_resid_mid") - before
    if not _close(before + attn + mlp, after, allowed):
        _refuse(stream, f"layer {layer}: resid_pre + attn_out + mlp_out != resid_post")
    between = f"{at}hook_resid_mid"
    sequential = not stream.weights(layer).parallel and stream.has(between)
    if sequential and not _close(before + attn, stream.get(between), allowed):
        _refuse(stream, f"layer {layer}: resid_pre + attn_out != resid_mid, which the MLP reads", edited=between)
    following = f"blocks.{layer + 1}.hook_resid_pre"
    separate = stream.has(following) and not _is_same(stream, following, f"{at}hook_resid_post")
    if separate and not _close(after, stream.get(following), allowed):
        _refuse(stream, f"layer {layer}: its resid_post is not the next layer's resid_pre", edited=following)


def _is_same(stream: Stream, name: str, other: str) -> bool:
    """Return whether two hooks cached the same tensor, so that nothing happened between them."""
    a, b = stream.cache[name], stream.cache[other]
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()


def _require_own_model(stream: Stream, places: Positions) -> None:
    """Refuse a model that did not make the cache, for caches without logits to compare."""
    if stream.model is stream.cache.model:
        return
    for site in SITES if stream.weights(0).has_attn else SITES[1:]:
        if all(stream.has(f"blocks.0.{hook}") for hook in site_hooks(stream, 0, site)) and stream.has(
            f"blocks.0.hook_{site}_out"
        ):
            sublayer = stream.sublayer(site, 0, places)
            along = sublayer.out / sublayer.out.norm(dim=-1, keepdim=True).clamp_min(TINY)
            require_neurons_add_up(stream, sublayer, along, sublayer.project_onto(along))
            return
    raise ValueError(
        "cache lacks unembed.hook_out, so nothing shows whether model= made it: run_with_cache without names_filter, "
        "or leave model= out"
    )


def require_neurons_add_up(
    stream: Stream,
    sublayer: Sublayer,
    along: Float[Tensor, "batch d_model"],
    terms: Float[Tensor, "batch neuron source"],
) -> None:
    """Refuse a sublayer whose neurons do not sum to its output, seen along one direction per prompt.

    Where 8-bit weights round what they read, what is missing is the error of the scores, and reported.

    Args:
        stream: The stream the sublayer is of.
        sublayer: The sublayer.
        along: The direction.
        terms: What each neuron wrote along it.

    Raises:
        ValueError: Naming the layer and site.

    Warns:
        UserWarning: Naming the layer and site, and the part that the neurons miss.
    """
    allowed = tolerance(stream.cache["blocks.0.hook_resid_pre"].dtype)
    whole = ((sublayer.out - sublayer.bias) * along).sum(-1)
    size = (sublayer.out - sublayer.bias).norm(dim=-1) * along.norm(dim=-1) + terms.abs().sum((1, 2)) / 10
    missed = ((terms.sum((1, 2)) - whole).abs() / size.clamp_min(TINY)).max()
    if allowed < missed <= ROUNDED and rounds_activations(stream.block(sublayer.layer)):
        warnings.warn(
            f"layer {sublayer.layer}: the {sublayer.site} neurons miss {float(missed):.2%} of what their layer wrote, "
            "since 8-bit weights round what they read: scores are of the dequantised weights, off by about that part",
            stacklevel=2,
        )
    elif not bool(missed <= allowed):
        _refuse(
            stream,
            f"layer {sublayer.layer}: the {sublayer.site} neurons and biases do not sum to hook_{sublayer.site}_out",
            edited=f"blocks.{sublayer.layer}.{sublayer.site}",
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


def _refuse(stream: Stream, finding: str, *, edited: str | None = None) -> None:
    """Refuse a cache because of a finding; ``edited`` names a hook if the architecture itself is known to add up.

    Raises:
        ValueError: Always.
    """
    culprit = first_not_finite(stream)
    if culprit is not None and stream.dtype == torch.float64 and culprit.endswith("attn.hook_pattern"):
        raise ValueError(
            f"{culprit} holds NaN: a float64 model attends to NaN where padding on the left has nothing to attend to; "
            "run prompts of one length, or the model in float32"
        )
    if culprit is not None:
        raise ValueError(
            f"{culprit} holds NaN or Inf; the run that made this cache is broken (dtype, weights or a hook)"
        )
    if edited is None:
        raise ValueError(
            f"this architecture's hooks are not additive ({finding}): its scores would be wrong. If a hook edits "
            "activations, make the cache without it"
        )
    raise ValueError(
        f"the cache is not of model as it is now ({finding}): a hook edits activations at {edited}, weights were "
        "changed since the run, or an adapter is attached; make the cache again, without hooks"
    )
