"""Exact top-k of the change of the log-probability increase between two runs, without scoring every neuron.

A neuron's change is its increase in the one run minus that in the other (paper 3, section 3.3). Each increase lies
between Jensen's bound and Jensen's bound less ``psi`` (:mod:`tl_neuron_attr.numerics.topk`), so that

    change <= <v, g> - (<v', g'> - psi(v')),

with ``v'`` and ``g'`` of the other run. The neurons of the largest ``<v, g> - <v', g'>`` are scored exactly in both
runs; where they leave many undecided, ``psi`` is narrowed (:mod:`tl_neuron_attr.numerics.narrow_bounds`). Then neurons
are scored in the order of the bound, until the k-th largest change beats the next bound.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.numerics.bounded_walk import FEWEST, FIRST_SPARE, MOST
from tl_neuron_attr.numerics.bounds import psi_bounds
from tl_neuron_attr.numerics.every_neuron import neuron_scores
from tl_neuron_attr.numerics.exact_scores import exact_scores
from tl_neuron_attr.numerics.flat_index import best_of
from tl_neuron_attr.numerics.increase import MAX_BYTES, Increase
from tl_neuron_attr.numerics.narrow_bounds import NarrowBounds
from tl_neuron_attr.numerics.sublayer import Sublayer
from tl_neuron_attr.numerics.topk import TopK, gradients_of

ScoredRun = tuple[Sequence[Increase], Sequence[Sublayer]]
"""One run: for each sublayer, scores of what is added to the stream it read, and the sublayer."""


def certified_topk_of_change(first: ScoredRun, other: ScoredRun, k: int, *, max_bytes: int = MAX_BYTES) -> TopK:
    """Return the exact top ``k`` of the increases in ``first`` minus those in ``other``, in nats.

    The most negative changes are the top ones with the runs exchanged.
    """
    if first[0][0].readout.transform is not None:
        change = _every(first, max_bytes) - _every(other, max_bytes)
        return _known(change, k)
    bounds = _jensen(first) - _jensen(other)
    if first[0][0].linear:
        return _known(bounds, k)
    psi, narrow = torch.cat(psi_bounds(*other), dim=1), NarrowBounds(*other)
    found = [_search((first, other), row, bounds[row], psi[row], narrow, k, max_bytes) for row in range(len(bounds))]
    flat, score, evaluated = zip(*found, strict=True)
    return TopK(torch.stack(flat), torch.stack(score), torch.tensor(evaluated))


def _search(
    runs: tuple[ScoredRun, ScoredRun],
    row: int,
    likely: Float[Tensor, "n"],
    psi: Float[Tensor, "n"],
    narrow: NarrowBounds,
    k: int,
    max_bytes: int,
) -> tuple[Int[Tensor, "k"], Float[Tensor, "k"], int]:
    """Return the best ``k`` of one prompt, their changes, and how many neurons were scored in both runs."""
    scored = best_of(likely, min(k + FIRST_SPARE, len(likely)))
    change = _change(runs, row, scored, max_bytes)
    bound = likely + psi
    bound[scored] = -torch.inf
    undecided = (bound > change.topk(k).values[-1]).nonzero()[:, 0]
    if len(undecided) > narrow.pays:
        bound[undecided] += (narrow.psi(row, undecided) - psi[undecided]).clamp_max(0)
    order, done, count = bound.argsort(descending=True)[: len(bound) - len(scored)], 0, FEWEST
    while done < len(order) and not _certain(change, bound[order[done]], k):
        some = order[done : done + count]
        scored, change = torch.cat([scored, some]), torch.cat([change, _change(runs, row, some, max_bytes)])
        done, count = done + len(some), min(MOST, 2 * count)
    by_place = scored.sort()
    best = best_of(change[by_place.indices], k)
    return by_place.values[best], change[by_place.indices][best], len(scored)


def _change(runs: tuple[ScoredRun, ScoredRun], row: int, flat: Int[Tensor, "n"], max_bytes: int) -> Float[Tensor, "n"]:
    """Return exact changes of neurons in one prompt."""
    first, other = (exact_scores(*run, torch.full_like(flat, row), flat, max_bytes=max_bytes) for run in runs)
    return first - other


def _certain(change: Float[Tensor, "n"], bound: Tensor, k: int) -> bool:
    """Return whether nothing below ``bound`` can enter the top ``k``; the margin covers rounding."""
    margin = 32 * torch.finfo(bound.dtype).eps * (1 + bound.abs())
    return bool(change.topk(k).values[-1] > bound + margin)


def _jensen(run: ScoredRun) -> Float[Tensor, "batch neuron_source"]:
    increases, sublayers = run
    gradients = gradients_of(increases)
    return torch.cat([s.project_onto(g).flatten(1) for s, g in zip(sublayers, gradients, strict=True)], dim=1)


def _every(run: ScoredRun, max_bytes: int) -> Float[Tensor, "batch neuron_source"]:
    scores = [neuron_scores(i, s, max_bytes=max_bytes).flatten(1) for i, s in zip(*run, strict=True)]
    return torch.cat(scores, dim=1)


def _known(change: Float[Tensor, "batch neuron_source"], k: int) -> TopK:
    flat = torch.stack([best_of(row, k) for row in change])
    return TopK(flat, change.gather(1, flat), torch.full((len(change),), change.shape[1]))
