"""Values of multi-head latent attention (DeepSeek, GLM 4 MoE Lite, Youtu): what a value reads the stream with.

A value is ``W_b norm(W_a x)``: the stream is compressed, normalised and expanded into the heads. With that inner norm
frozen too, it is linear in the stream: dimension ``i`` reads with ``(W_b[i] * weight) @ W_a``, divided by the norm's
scale at its position.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

LATENT_NORM = "attn.kv_a_layernorm"
"""The norm of the compressed stream."""


def has_latent_values(attn: Any) -> bool:
    """Return whether values are made of a compressed stream in a way that is known here."""
    return all(hasattr(attn, name) for name in ("kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj"))


def latent_subkeys(
    attn: Any, index: Int[Tensor, "n"], sizes: tuple[int, int], weight: Float[Tensor, "rank"]
) -> tuple[Float[Tensor, "n d_model"], Float[Tensor, "n"] | None]:
    """Return what attention neurons read the stream with, and their biases, both times the inner norm's scale.

    Args:
        attn: The attention of a block.
        index: The neurons, dimensions counted through all heads.
        sizes: The number of heads, and of dimensions of each one's value.
        weight: What the inner norm multiplies with.
    """
    compress, rank = attn.kv_a_proj_with_mqa, len(weight)
    expand = attn.kv_b_proj.weight
    n_heads, d_head = sizes
    head, dimension = index // d_head, index % d_head
    by_head = len(expand) // n_heads  # a head's key without rotation stands before its value
    rows = expand[head * by_head + by_head - d_head + dimension] * weight.to(expand.dtype)
    bias = getattr(compress, "bias", None)
    keys = rows @ compress.weight[:rank].to(rows.dtype)
    return keys, None if bias is None else rows @ torch.as_tensor(bias)[:rank].to(rows.dtype)
