"""From a neuron's flat index over several sublayers to sublayer, neuron and source.

Neurons, counted with their sources, are numbered through a list of sublayers: the first sublayer's neuron 0 at source
0, at source 1, ..., its neuron 1, ..., then the next sublayer's.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.numerics.sublayer import Sublayer


def locate(
    sublayers: Sequence[Sublayer], flat: Int[Tensor, "*n"]
) -> tuple[Int[Tensor, "*n"], Int[Tensor, "*n"], Int[Tensor, "*n"]]:
    """Return sublayer, neuron and source of numbers through ``sublayers``."""
    sizes = torch.tensor([s.width * s.sources for s in sublayers], dtype=torch.long, device=flat.device)
    sources = torch.tensor([s.sources for s in sublayers], dtype=torch.long, device=flat.device)
    ends = sizes.cumsum(0)
    where = torch.searchsorted(ends, flat, right=True)
    local = flat - (ends - sizes)[where]
    return where, local // sources[where], local % sources[where]


def flat_coefficients(sublayers: Sequence[Sublayer]) -> Float[Tensor, "batch neuron_source"]:
    """Return the coefficients of every neuron, numbered through ``sublayers``."""
    return torch.cat([s.coefficients.flatten(1) for s in sublayers], dim=1)


def best_of(scores: Float[Tensor, "n"], k: int) -> Int[Tensor, "k"]:
    """Return the places of the ``k`` highest scores, highest first, ties by place."""
    candidates = (scores >= scores.topk(k).values[-1]).nonzero()[:, 0]
    return candidates[scores[candidates].sort(descending=True, stable=True).indices[:k]]
