"""A model's weights as the decomposition needs them: write directions, norms, the unembedding; live views, no copies.

With :mod:`tl_neuron_attr.model.stream`, the only place that knows how TransformerLens names things.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr.model.components import within
from tl_neuron_attr.numerics.readout import Norm, Readout
from tl_neuron_attr.numerics.sublayer import Site, score_dtype


def unit_norm(module: Any, dtype: torch.dtype) -> Norm:
    """A norm module with a scale of one: what it does to every vector alike."""
    weight = module.w.to(dtype)
    return Norm(
        weight=1 + weight if getattr(module, "uses_weight_offset", False) else weight,
        scale=torch.ones(1, dtype=dtype, device=weight.device),
        centred=not module.uses_rms_norm,
    )


def post_norm_name(block: Any, site: Site) -> str:
    """The norm between a sublayer's output and the stream (Gemma-2/3, OLMo-2), or the empty string."""
    owner = str(block.hook_aliases.get(f"hook_{site}_out", "")).split(".")[0]
    return owner if owner.startswith("ln") else ""


def pre_norm_name(block: Any, site: Site) -> str:
    """The norm a sublayer reads the stream through; the empty string where it reads it bare (OLMo-2)."""
    after = {post_norm_name(block, "attn"), post_norm_name(block, "mlp")}
    names = ("ln2", "ln1") if site == "mlp" else ("ln1",)  # a parallel MLP without a norm of its own shares ln1
    return next((name for name in names if hasattr(block, name) and name not in after), "")


def directions(block: Any, site: Site) -> Float[Tensor, "neuron d_model"]:
    """The write direction of every neuron of a sublayer: rows of ``W_out``, or of ``W_O`` head after head."""
    return block.mlp.W_out if site == "mlp" else block.attn.W_O.flatten(0, 1)


def direction(model: Any, site: Site, layer: int, head: int, index: int) -> Float[Tensor, "d_model"]:
    """One neuron's write direction as it enters the stream, up to a positive factor.

    Raises:
        IndexError: If there is no such neuron, with the valid range.
    """
    within("layer", layer, model.cfg.n_layers)
    block = model.blocks[layer]
    if site == "attn":
        within("head", head, len(block.attn.W_O))
    rows = block.mlp.W_out if site == "mlp" else block.attn.W_O[head]
    within(f"neuron index in layer {layer}", index, len(rows))
    row = rows[index].to(score_dtype(rows.dtype))
    return as_written(block, site, row)


def as_written(block: Any, site: Site, rows: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
    """Write directions as they enter the stream, up to a positive factor: through the post-norm, if there is one."""
    name = post_norm_name(block, site)
    return unit_norm(getattr(block, name), rows.dtype).apply_unscaled(rows) if name else rows


def through_head(
    model: Any, vectors: Float[Tensor, "*n d_model"], layer: int, head: int | None
) -> Float[Tensor, "*n d_model"]:
    """Vectors of the stream as a head moves them, ``W_O W_V norm(v)``, up to positive factors (the norms' scales).

    Without a head, as all heads of the layer do, each attending fully.

    Raises:
        IndexError: If there is no such head, with the valid range.
    """
    within("layer", layer, model.cfg.n_layers)
    block = model.blocks[layer]
    heads, kv_heads = len(block.attn.W_O), len(block.attn.W_V)
    if head is not None:
        within("head", head, heads)
    before = pre_norm_name(block, "attn")
    normed = unit_norm(getattr(block, before), vectors.dtype).apply_unscaled(vectors) if before else vectors
    chosen = list(range(heads)) if head is None else [head]
    W_V = block.attn.W_V[[each // (heads // kv_heads) for each in chosen]].transpose(0, 1).flatten(1)
    W_O = block.attn.W_O[chosen].flatten(0, 1)
    moved = normed @ W_V.to(vectors.dtype) @ W_O.to(vectors.dtype)
    return as_written(block, "attn", moved)


def unembedding(model: Any, dtype: torch.dtype) -> Readout:
    """The model's readout with the final norm's scale at one."""
    norm, own = unit_norm(model.ln_final, dtype), getattr(model.ln_final, "b", None)
    norm_bias = torch.zeros_like(norm.weight) if own is None else own.to(dtype)
    return Readout(model.W_U, norm, norm_bias, model.b_U.to(dtype), *_output_transform(model, dtype))


def _output_transform(model: Any, dtype: torch.dtype) -> tuple[float, Callable[[Tensor], Tensor] | None]:
    """The adapter's output transform as a multiplier if it is linear, else as a function."""
    transform = model.adapter.apply_output_logits_transform
    probe = torch.tensor([-64.0, -1.0, 0.0, 1.0, 64.0], dtype=dtype, device=model.W_U.device)
    multiplier = float(transform(probe)[3])
    linear = torch.allclose(transform(probe), probe * multiplier, rtol=1e-6, atol=0)
    return (multiplier, None) if linear else (1.0, transform)
