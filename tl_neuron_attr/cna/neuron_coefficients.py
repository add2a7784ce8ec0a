"""Coefficients of the neurons that other models use more than the original, in one case (paper 3, Table 9).

The neurons are those of the largest ``Imp(other) - Imp(original)`` summed over the other models. Each model's own are
found by a certified search, and a neuron that none of the searches gave has at most the sum of their last changes:
where that is below the k-th largest sum, no other neuron can be among the first ``k``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.cna.arithmetic_cases import Case
from tl_neuron_attr.cna.changed_neurons import changed_neurons
from tl_neuron_attr.cna.coefficients import ORIGINAL, require_tokens_shared, run_of
from tl_neuron_attr.cna.compare_neurons import other_run
from tl_neuron_attr.cna.paired_runs import mlp_coefficients, plain
from tl_neuron_attr.model.scored import as_scored
from tl_neuron_attr.model.scored_cache import ScoredCache
from tl_neuron_attr.numerics.exact_scores import exact_scores
from tl_neuron_attr.numerics.flat_index import best_of
from tl_neuron_attr.numerics.increase import MAX_BYTES

_GROWTH = 4
"""How many times as many neurons of each model are searched where fewer did not decide: a longer search costs little
more than a short one, whose bounds it needs too."""


@typechecked
@torch.no_grad()
def neuron_coefficients(model: Any, others: Mapping[str, Any], case: Case, *, k: int = 3) -> pd.DataFrame:
    """Return coefficients of the ``k`` MLP neurons that other models use more in one case (paper 3, Table 9).

    The neurons are those of the largest change summed over the other models; only neurons that may be among them are
    scored.

    Args:
        model: The original model.
        others: By name, adapters of it, or models of the same shape.
        case: The case.
        k: How many neurons.

    Returns:
        One row per neuron: ``neuron``, ``original``, and a column for each other model.

    Raises:
        ValueError: If there is no other model, ``k`` is not between 1 and the number of neurons, models are not of one
            shape, or two tokenizers do not share a token of the case.

    Examples:
        >>> from tl_neuron_attr import cna, demo
        >>> model = demo.load()
        >>> case = cna.arithmetic_cases(model, [cna.Problem(3, "+", 5)])[0]
        >>> neuron_coefficients(model, {"itself": model}, case, k=2).columns.tolist()
        ['neuron', 'original', 'itself']
    """
    if not others:
        raise ValueError("others is empty: give at least one adapter or model")
    require_tokens_shared(model, others, [case])
    tokens = torch.tensor([case.tokens])
    original, runs = plain(model)(tokens), [run_of(model, other)(tokens) for other in others.values()]
    layer, index = _most_raised(original, runs, case.answer, k)
    names = [f"L{la}N{i}" for la, i in zip(layer.tolist(), index.tolist(), strict=True)]
    before, *after = (mlp_coefficients(run)[0, layer, index].tolist() for run in (original, *runs))
    return pd.DataFrame({"neuron": names, ORIGINAL: before, **dict(zip(others, after, strict=True))})


def _most_raised(
    original: ActivationCache, runs: Sequence[ActivationCache], answer: int, k: int
) -> tuple[Int[Tensor, "k"], Int[Tensor, "k"]]:
    """Return layers and numbers of the ``k`` neurons whose increase of the answer rose most, summed over the runs."""
    mine = as_scored(original, answer, ("mlp",))
    theirs = [other_run(mine, run, "mlp") for run in runs]
    widths = torch.tensor([mlp.coefficients.shape[1] for mlp in mine.stream.sublayers(mine.places, ("mlp",))])
    starts, most = widths.cumsum(0) - widths, int(widths.sum())
    if not 1 <= k <= most:
        raise ValueError(f"k must be between 1 and the {most} mlp neurons, got {k}")
    n = k
    while True:
        found = [changed_neurons(mine, run, k=min(n, most), largest=False, text=False) for run in runs]
        rows = [each[0] if each.batched else each for each in found]
        flat = torch.cat([starts[each.layer.cpu()] + each.index.cpu() for each in rows]).unique()
        raised = -torch.stack([_changes(mine, other, flat) for other in theirs]).sum(0)
        best = best_of(raised, k)
        unseen = -sum(float(each.score[-1]) for each in rows)
        if n >= most or float(raised[best[-1]]) > unseen:
            layer = torch.searchsorted(starts, flat[best], right=True) - 1
            return layer, flat[best] - starts[layer]
        n *= _GROWTH


def _changes(mine: ScoredCache, theirs: ScoredCache, flat: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Return the exact changes of MLP neurons, numbered through the layers, in nats."""
    at, found = flat.to(mine.stream.device), list[Tensor]()
    for run in (mine, theirs):
        scored = run.increases(("mlp",)), list(run.stream.sublayers(run.places, ("mlp",)))
        found.append(exact_scores(*scored, torch.zeros_like(at), at, max_bytes=MAX_BYTES))
    return (found[0] - found[1]).cpu()
