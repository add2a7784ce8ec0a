"""From places among the neurons of several sublayers to named neurons.

Neurons, counted with their sources, are numbered through a list of sublayers: the first sublayer's neuron 0 at source
0, at source 1, ..., its neuron 1, ..., then the next sublayer's.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.numerics.flat_index import locate
from tl_neuron_attr.numerics.sublayer import SITES, Sublayer
from tl_neuron_attr.results.neurons import COLUMNS, Neurons
from tl_neuron_attr.results.token_lists import Words


def named(
    sublayers: Sequence[Sublayer],
    flat: Int[Tensor, "batch k"],
    *,
    coefficient: Float[Tensor, "batch k"],
    score: Float[Tensor, "batch k"],
    words: Callable[[Neurons], Words] | None,
    evaluated: Int[Tensor, "batch"] | None = None,
) -> Neurons:
    """The neurons at ``flat``, with what is known of them."""
    where, neuron, source = locate(sublayers, flat)
    attn = torch.tensor([s.site == "attn" for s in sublayers], dtype=torch.bool, device=flat.device)[where]
    width = torch.tensor([s.width // s.heads for s in sublayers], dtype=torch.long, device=flat.device)[where]
    minus = torch.full_like(neuron, -1)
    return Neurons(
        site=torch.where(attn, SITES.index("attn"), SITES.index("mlp")),
        layer=torch.tensor([s.layer for s in sublayers], dtype=torch.long, device=flat.device)[where],
        head=torch.where(attn, neuron // width, minus),
        source=torch.where(attn, source, minus),
        index=neuron % width,
        coefficient=coefficient,
        score=score,
        evaluated=evaluated,
        words=words,
    )


def joined(parts: Sequence[Neurons]) -> Neurons:
    """The neurons of several groups of prompts as one batch; as many of each prompt as all have."""
    if len(parts) == 1:
        return parts[0]
    k = min(len(part) for part in parts)
    tensors = {name: torch.cat([getattr(part, name)[:, :k] for part in parts]) for name in COLUMNS}
    evaluated = [part.evaluated for part in parts if part.evaluated is not None]
    return Neurons(**tensors, evaluated=torch.cat(evaluated) if evaluated else None, words=parts[0].words)
