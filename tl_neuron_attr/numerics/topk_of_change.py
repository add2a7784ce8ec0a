"""Exact top-k of the change of the log-probability increase between two runs, without scoring every neuron.

A neuron's change is its increase in the one run minus that in the other (paper 3, section 3.3). Each increase lies
between Jensen's bound and Jensen's bound less ``psi`` (:mod:`tl_neuron_attr.numerics.topk`), so that

    change <= <v, g> - (<v', g'> - psi(v')),

with ``v'`` and ``g'`` of the other run. The neurons of the largest ``<v, g> - <v', g'>`` are scored exactly in both
runs. What is bit for bit the same in both, as all is below the first change, needs no ``psi``: its change is 0. Where
many are left undecided, ``psi`` is narrowed (:mod:`tl_neuron_attr.numerics.narrow_bounds`). Then neurons are scored in
the order of the bound, until the k-th largest change beats the next bound.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_neuron_attr.numerics.answer_sums import AnswerSums
from tl_neuron_attr.numerics.bounded_walk import FEWEST, FIRST_SPARE, MOST
from tl_neuron_attr.numerics.bounds import psi_bounds
from tl_neuron_attr.numerics.every_neuron import neuron_scores
from tl_neuron_attr.numerics.exact_scores import exact_scores
from tl_neuron_attr.numerics.flat_index import best_of
from tl_neuron_attr.numerics.increase import MAX_BYTES, Increase
from tl_neuron_attr.numerics.narrow_bounds import NarrowBounds
from tl_neuron_attr.numerics.sublayer import StackedRows, Sublayer
from tl_neuron_attr.numerics.topk import TopK, gradients_of

ScoredRun = tuple[Sequence[Increase], Sequence[Sublayer]]
"""One run: for each sublayer, scores of what is added to the stream it read, and the sublayer."""


def certified_topk_of_change(
    first: ScoredRun, other: ScoredRun, k: int, *, sums: AnswerSums | None = None, max_bytes: int = MAX_BYTES
) -> TopK:
    """Return the exact top ``k`` of the increases in ``first`` minus those in ``other``, in nats.

    The most negative changes are the top ones with the runs exchanged. With ``sums``, the changes at the places of an
    answer are added up, and so are their bounds; those of a contrast count with the other sign, and are bounded by the
    ``psi`` of the first run.
    """
    own = sums or _each_its_own(first)
    if first[0][0].readout.transform is not None:
        return _known(_every(first, max_bytes) - _every(other, max_bytes), own, k)
    likely = _jensen(first) - _jensen(other)
    if first[0][0].linear:
        return _known(likely, own, k)
    same = _same(first, other)
    bounds, psi = own(likely), _psi(first, other, own, same)
    narrow = {1: NarrowBounds(*other), -1: NarrowBounds(*first)}
    found: list[tuple[Tensor, Tensor, int]] = []
    for result in range(len(own)):
        places = (own.result_of_place == result).nonzero()[:, 0]
        signed = list(zip(places.tolist(), own.sign_of_place[places].tolist(), strict=True))
        of_result = bounds[result], psi[places].sum(0), same[places].all(0)
        found.append(_search((first, other), signed, *of_result, narrow, k, max_bytes))
    flat, by_place, evaluated = zip(*found, strict=True)
    change = torch.cat(by_place)
    return TopK(torch.stack(flat), own(change), torch.tensor(evaluated), by_place=change)


def _each_its_own(run: ScoredRun) -> AnswerSums:
    each = torch.arange(len(run[0][0].base), device=run[0][0].base.device)
    return AnswerSums(each, each, torch.ones_like(each))


def _psi(
    first: ScoredRun, other: ScoredRun, sums: AnswerSums, same: Bool[Tensor, "place neuron_source"]
) -> Float[Tensor, "place neuron_source"]:
    """Return, of every place, how far the change may lie above the difference of Jensen's bounds."""
    psi, minus = torch.cat(psi_bounds(*other), dim=1), sums.sign_of_place < 0
    if bool(minus.any()):
        psi = torch.where(minus[:, None], torch.cat(psi_bounds(*first), dim=1), psi)
    return psi.masked_fill(same, 0)


def _same(first: ScoredRun, other: ScoredRun) -> Bool[Tensor, "place neuron_source"]:
    """Return which neurons are of sublayers that read and wrote the same in both runs."""
    pairs = zip(first[1], other[1], strict=True)
    return torch.cat([_alike(*each)[:, None].expand_as(each[0].coefficients.flatten(1)) for each in pairs], dim=1)


def _alike(one: Sublayer, other: Sublayer) -> Bool[Tensor, "place"]:
    """Return at which places two runs of a sublayer read and wrote the same, neuron by neuron."""
    pairs = ((getattr(one, name), getattr(other, name)) for name in ("base", "out", "coefficients"))
    alike = torch.stack([(mine == theirs).flatten(1).all(1) for mine, theirs in pairs]).all(0)
    return alike & _same_rows(one.directions, other.directions) if bool(alike.any()) else alike


def _same_rows(one: Tensor | StackedRows, other: Tensor | StackedRows) -> bool:
    return one is other or (isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other))


def _search(
    runs: tuple[ScoredRun, ScoredRun],
    places: Sequence[tuple[int, int]],
    likely: Float[Tensor, "n"],
    psi: Float[Tensor, "n"],
    same: Bool[Tensor, "n"],
    narrow: Mapping[int, NarrowBounds],
    k: int,
    max_bytes: int,
) -> tuple[Int[Tensor, "k"], Float[Tensor, "place k"], int]:
    """Return the best ``k`` of one result, their changes at each of its places, and how many neurons were scored.

    Args:
        runs: Both runs.
        places: The places of the result, each with its sign.
        likely: The differences of Jensen's bounds, added up.
        psi: How far the change may lie above them.
        same: Which neurons have not changed: the first of them stand for all.
        narrow: By sign, what narrows ``psi``.
        k: How many.
        max_bytes: A cap on the working set.
    """
    changed = best_of(likely.masked_fill(same, -torch.inf), min(k + FIRST_SPARE, len(likely)))
    scored = torch.cat([changed, same.nonzero()[:k, 0]]).unique()
    by_place = _change(runs, places, scored, max_bytes)
    bound = (likely + psi).masked_fill(same, -torch.inf)
    bound[scored] = -torch.inf
    undecided = (bound > _added(by_place, places).topk(k).values[-1]).nonzero()[:, 0]
    if len(undecided) > narrow[1].pays:
        narrowed = torch.stack([narrow[sign].psi(place, undecided) for place, sign in places]).sum(0)
        bound[undecided] += (narrowed - psi[undecided]).clamp_max(0)
    order, done, count = bound.argsort(descending=True)[: int(bound.isfinite().sum())], 0, FEWEST
    while done < len(order) and not _certain(_added(by_place, places), bound[order[done]], k):
        some = order[done : done + count]
        scored = torch.cat([scored, some])
        by_place = torch.cat([by_place, _change(runs, places, some, max_bytes)], dim=1)
        done, count = done + len(some), min(MOST, 2 * count)
    by_number = scored.sort()
    ordered = by_place[:, by_number.indices]
    best = best_of(_added(ordered, places), k)
    return by_number.values[best], ordered[:, best], len(scored)


def _change(
    runs: tuple[ScoredRun, ScoredRun], places: Sequence[tuple[int, int]], flat: Int[Tensor, "n"], max_bytes: int
) -> Float[Tensor, "place n"]:
    """Return exact changes of neurons at each place."""
    at = [torch.full_like(flat, place) for place, _ in places]
    first, other = (torch.stack([exact_scores(*run, place, flat, max_bytes=max_bytes) for place in at]) for run in runs)
    return first - other


def _added(by_place: Float[Tensor, "place n"], places: Sequence[tuple[int, int]]) -> Float[Tensor, "n"]:
    return torch.stack([sign * change for (_, sign), change in zip(places, by_place, strict=True)]).sum(0)


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


def _known(change: Float[Tensor, "place neuron_source"], sums: AnswerSums, k: int) -> TopK:
    added = sums(change)
    flat = torch.stack([best_of(row, k) for row in added])
    evaluated = torch.full((len(added),), added.shape[1])
    return TopK(flat, added.gather(1, flat), evaluated, by_place=change.gather(1, flat[sums.result_of_place]))
