"""A model's norms: which modules are norms, and what a norm does to every vector alike."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr.model.bare_norms import bare_eps
from tl_neuron_attr.numerics.readout import Norm


def is_norm(module: Any) -> bool:
    """Return whether a module normalises: TransformerLens puts an identity there in models without norms."""
    return hasattr(module, "hook_scale") or bare_eps(module) is not None


def unit_norm(module: Any, dtype: torch.dtype, like: Float[Tensor, "d_model"]) -> Norm:
    """Return a norm with a scale of one: what it does to every vector alike.

    A norm without parameters (NanoChat, OLMo 1, TransformerLens' ``LNPre`` and ``RMSPre``) has a weight of one.

    Args:
        module: The norm's module.
        dtype: The dtype of scores.
        like: A vector of the norm's width, where the weights live.
    """
    weight = getattr(module, "w", None)
    weight = getattr(module, "weight", None) if weight is None and bare_eps(module) is not None else weight
    ones = torch.ones(like.shape, dtype=dtype, device=like.device)
    if weight is not None:
        ones = ones + weight.to(dtype) if getattr(module, "uses_weight_offset", False) else weight.to(dtype)
    return Norm(
        weight=ones,
        scale=torch.ones(1, dtype=dtype, device=ones.device),
        centred=hasattr(module, "hook_scale") and not module.uses_rms_norm,
    )
