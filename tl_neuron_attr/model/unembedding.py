"""How a model reads its last stream out as logits: final norm, unembedding, and what its adapter does to logits."""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from tl_neuron_attr.model.norms import unit_norm
from tl_neuron_attr.numerics.readout import Readout

_KEPT: WeakKeyDictionary[Any, dict[str, Tensor]] = WeakKeyDictionary()
"""What readouts of a model keep about its unembedding, as long as the model lives."""


def unembedding(model: Any, dtype: torch.dtype) -> Readout:
    """Return the model's readout with the final norm's scale at one."""
    norm, own = unit_norm(model.ln_final, dtype, model.W_U[:, 0]), getattr(model.ln_final, "b", None)
    norm_bias = torch.zeros_like(norm.weight) if own is None else own.to(dtype)
    kept = _KEPT.setdefault(model, {})
    return Readout(model.W_U, norm, norm_bias, model.b_U.to(dtype), *_output_transform(model, dtype), kept)


def _output_transform(model: Any, dtype: torch.dtype) -> tuple[float, Callable[[Tensor], Tensor] | None]:
    """Return the adapter's output transform as a multiplier if it is linear, else as a function."""
    transform = model.adapter.apply_output_logits_transform
    probe = torch.tensor([-64.0, -1.0, 0.0, 1.0, 64.0], dtype=dtype, device=model.W_U.device)
    multiplier = float(transform(probe)[3])
    linear = torch.allclose(transform(probe), probe * multiplier, rtol=1e-6, atol=0)  # a few float32 roundings
    return (multiplier, None) if linear else (1.0, transform)
