"""The numbers of neurons, by field: of neurons found in a list of sublayers, and of several groups joined."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.numerics.flat_index import flat_coefficients, locate
from tl_neuron_attr.numerics.stacked_rows import StackedRows
from tl_neuron_attr.numerics.sublayer import SITES, Sublayer
from tl_neuron_attr.results.neuron_file import EXPERT, PLACE

COLUMNS = (*PLACE, "coefficient", "score")
"""The fields of :class:`~tl_neuron_attr.Neurons` with a number for every neuron, whatever the model."""

MEASURED = ("effect", "target_logit", "target_rank")
"""The fields with a number for every neuron where they were asked for."""

OF_TOKENS = {"token_score": 0.0, "token_coefficient": torch.nan}
"""The fields with a number for every neuron and token, and what stands behind the last token of shorter answers."""


def columns_at(
    sublayers: Sequence[Sublayer], flat: Int[Tensor, "batch k"], *, coefficient: Float[Tensor, "batch k"] | None = None
) -> dict[str, Any]:
    """Return what is known of the neurons at some places of a list of sublayers; their coefficients there unless given.

    Neurons, each with its sources, are numbered through the list (:mod:`tl_neuron_attr.numerics.flat_index`).
    """
    where, neuron, source = locate(sublayers, flat)

    def of(values: Sequence[int]) -> Int[Tensor, "batch k"]:
        return torch.tensor(values, dtype=torch.long, device=flat.device)[where]

    attn, width = of([s.site == "attn" for s in sublayers]).bool(), of([s.width // s.heads for s in sublayers])
    minus = torch.full_like(neuron, -1)
    expert, inner = _by_expert(sublayers, where, neuron)
    return {
        "site": torch.where(attn, SITES.index("attn"), SITES.index("mlp")),
        "layer": of([s.layer for s in sublayers]),
        "head": torch.where(attn, neuron // width, minus),
        "source": torch.where(attn, source, minus),
        "index": neuron % width,
        "coefficient": flat_coefficients(sublayers).gather(1, flat) if coefficient is None else coefficient,
        "expert": expert,
        "expert_index": inner,
    }


def joined_columns(groups: Sequence[Any], *, k: int) -> dict[str, Any]:
    """Return the columns of several groups of prompts as those of one batch, ``k`` neurons of each prompt.

    Effects, ranks and numbers of tokens are joined where all groups have them, experts where any has.
    """
    known = [name for name in MEASURED if all(getattr(group, name) is not None for group in groups)]
    columns = (*COLUMNS, *known)
    tensors: dict[str, Any] = {name: torch.cat([getattr(group, name)[:, :k] for group in groups]) for name in columns}
    for name, filling in OF_TOKENS.items():
        if all(getattr(group, name) is not None for group in groups):
            tensors[name] = _filled_up([getattr(group, name)[..., :k] for group in groups], filling)
    if any(group.expert is not None for group in groups):  # one of dense layers only has none of these columns
        none = [torch.full_like(group.index, -1) for group in groups]
        for name in EXPERT:
            found = [getattr(group, name) for group in groups]
            tensors[name] = torch.cat([(n if f is None else f)[:, :k] for f, n in zip(found, none, strict=True)])
    return tensors


def _filled_up(groups: Sequence[Float[Tensor, "_ _ k"]], filling: float) -> Float[Tensor, "prompt token k"]:
    """Return the numbers of several groups of prompts, shorter answers filled up."""
    longest = max(group.shape[1] for group in groups)
    return torch.cat(
        [torch.nn.functional.pad(group, (0, 0, 0, longest - group.shape[1]), value=filling) for group in groups]
    )


def _by_expert(
    sublayers: Sequence[Sublayer], where: Int[Tensor, "batch k"], neuron: Int[Tensor, "batch k"]
) -> tuple[Int[Tensor, "batch k"] | None, Int[Tensor, "batch k"] | None]:
    """Return expert and number within it of each neuron, -1 in dense layers; None where all are dense."""
    mixtures = [(i, s.directions) for i, s in enumerate(sublayers) if isinstance(s.directions, StackedRows)]
    expert, inner = torch.full_like(neuron, -1), torch.full_like(neuron, -1)
    for i, rows in mixtures:
        mine = where == i
        expert[mine] = rows.block_of(neuron[mine])
        inner[mine] = neuron[mine] - torch.tensor(rows.starts, device=neuron.device)[expert[mine]]
    return (expert, inner) if mixtures else (None, None)
