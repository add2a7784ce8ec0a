"""Norms of transformers that a bridge leaves as they are: without a hook on their scale, which is computed instead.

Such a module divides by the root mean square of what it reads and multiplies with its ``weight``, if it has one
(Gemma 4). That it does so and nothing else is not believed: what follows from it has to add up in every cache.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def bare_eps(module: Any) -> float | None:
    """Return what a norm without a hook on its scale adds under the root; None for every other module.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> bare_eps(tna.demo.load().ln_final) is None  # TransformerLens shows the scale
        True
    """
    if hasattr(module, "hook_scale") or isinstance(getattr(module, "original_component", None), torch.nn.LayerNorm):
        return None
    eps = getattr(module, "eps", getattr(module, "variance_epsilon", None))
    return eps if isinstance(eps, float) else None


def root_mean_square(read: Float[Tensor, "*n width"], eps: float) -> Float[Tensor, "*n 1"]:
    """Return the scale of a norm by what it read, in float32 at least."""
    exact = read if read.dtype == torch.float64 else read.float()
    return (exact.square().mean(-1, keepdim=True) + eps).sqrt()
