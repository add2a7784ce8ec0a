"""Exact top-k of the change of the log-probability increase between two runs, without scoring every neuron.

A neuron's change is its increase in the one run minus that in the other (paper 3, section 3.3). Each increase lies
between Jensen's bound and Jensen's bound less ``psi`` (:mod:`tl_neuron_attr.numerics.topk`), so that

    change <= <v, g> - (<v', g'> - psi(v')),

with ``v'`` and ``g'`` of the other run. Neurons are scored exactly in both runs in the order of this bound, until the
k-th largest change beats the next bound.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.numerics.bounds import psi_bounds
from tl_neuron_attr.numerics.every_neuron import neuron_scores
from tl_neuron_attr.numerics.flat_index import best_of
from tl_neuron_attr.numerics.increase import MAX_BYTES, Increase
from tl_neuron_attr.numerics.sublayer import Sublayer
from tl_neuron_attr.numerics.topk import FEWEST, MOST, TopK, exact_scores, gradients_of

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
    bounds = bounds + torch.cat(psi_bounds(*other), dim=1)
    found = [_search(first, other, row, bound, k, max_bytes) for row, bound in enumerate(bounds)]
    flat, score, evaluated = zip(*found, strict=True)
    return TopK(torch.stack(flat), torch.stack(score), torch.tensor(evaluated))


def _search(
    first: ScoredRun, other: ScoredRun, row: int, bound: Float[Tensor, "n"], k: int, max_bytes: int
) -> tuple[Int[Tensor, "k"], Float[Tensor, "k"], int]:
    """Return the best ``k`` of one prompt, their changes, and how many neurons were scored in both runs."""
    order = bound.argsort(descending=True)
    change, done, count = bound.new_empty(0), 0, k + FEWEST
    while done < len(order) and not _certain(change, bound[order[done]], k):
        some = order[done : done + count]
        rows = torch.full_like(some, row)
        mine, theirs = (exact_scores(*run, rows, some, max_bytes=max_bytes) for run in (first, other))
        change, done, count = torch.cat([change, mine - theirs]), done + len(some), min(MOST, 2 * count)
    by_place = order[:done].sort()
    best = best_of(change[by_place.indices], k)
    return by_place.values[best], change[by_place.indices][best], done


def _certain(change: Float[Tensor, "n"], bound: Tensor, k: int) -> bool:
    """Whether nothing below ``bound`` can enter the top ``k``; the margin covers the rounding of bounds and scores."""
    margin = 32 * torch.finfo(bound.dtype).eps * (1 + bound.abs())
    return len(change) >= k and bool(change.topk(k).values[-1] > bound + margin)


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
