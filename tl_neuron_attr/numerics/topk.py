"""Exact top-k of the log-probability increase, without scoring every neuron.

With ``x`` a neuron's logit contributions and ``p`` the distribution its sublayer started from, the score of token ``w``
is ``x[w] - log E_p[exp x]`` (paper 1, Eq. 13). Forms that cost one inner product per neuron bound it from both sides:

    score <= x[w] - E_p[x] = <v, g>         Jensen: exp is convex
    score >= <v, g> - psi(v)                psi bounds log E_p[exp(x - E_p[x])], see ``bounds.py``

with ``g = readout[w] - E_p[readout]``, the gradient of log p(w) in the stream.

Phase 1  read out every stream a sublayer reads, and form its ``g``;
Phase 2  bound every neuron with one matrix-vector product per sublayer;
Phase 3  score neurons exactly in the order of their bounds, until the k-th best score beats the next bound.

What Phase 3 returns is the exact top k: no neuron left out can pass its bound. A neuron whose coefficient is zero
scores exactly zero and is never evaluated.

For the most suppressing neurons all signs are reversed, and the bounds are those from below, which are wide. So the
neurons of the lowest Jensen bounds are scored first: the k-th best of them tells which neurons are still undecided,
and where these are many, their bounds are narrowed (``narrow_bounds.py``) before the search goes on.

Where a result has several places (the tokens of an answer), the bounds of its places bound their sum, and those of
several answers the log of their summed probability; see ``answer_sums.py``.

Two cases need no search. A contrast makes the score linear, so that Phase 2 is exact; a model that caps its logits has
no such bound, so that every neuron is scored.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.numerics.answer_sums import AnswerSums
from tl_neuron_attr.numerics.bounded_walk import BoundedWalk
from tl_neuron_attr.numerics.bounds import psi_bounds
from tl_neuron_attr.numerics.every_neuron import neuron_scores
from tl_neuron_attr.numerics.exact_scores import ResultPlaces
from tl_neuron_attr.numerics.flat_index import best_of, flat_coefficients
from tl_neuron_attr.numerics.increase import MAX_BYTES, Increase, mean_unembeddings
from tl_neuron_attr.numerics.kept_scores import KeptScores, kept_scores
from tl_neuron_attr.numerics.narrow_bounds import NarrowBounds
from tl_neuron_attr.numerics.sublayer import Sublayer

Check = Callable[[Sublayer, Float[Tensor, "batch d_model"], Float[Tensor, "batch neuron source"]], None]
"""Looks at a sublayer, a direction per prompt, and what each neuron wrote along it; may refuse by raising."""


@dataclass(frozen=True)
class TopK:
    """The k best of all neurons, counted with their sources in the order of the sublayers.

    Attributes:
        flat: Their places in that order.
        score: Their exact scores, best first, ties by place.
        evaluated: How many neurons were scored exactly to be sure.
        promoted: The tokens whose logits each raises most, where they were asked for; -1 where they are not known.
        by_place: The score of each at every place of its result, where a result has several.
    """

    flat: Int[Tensor, "batch k"]
    score: Float[Tensor, "batch k"]
    evaluated: Int[Tensor, "batch"]
    promoted: Int[Tensor, "batch k best"] | None = None
    by_place: Float[Tensor, "place k"] | None = None


def certified_topk(
    increases: Sequence[Increase],
    sublayers: Sequence[Sublayer],
    k: int,
    *,
    largest: bool = True,
    max_bytes: int = MAX_BYTES,
    check: Check | None = None,
    promoted: int = 0,
    sums: AnswerSums | None = None,
    kept: KeptScores | None = None,
) -> TopK:
    """Return the exact top ``k`` over the neurons of ``sublayers``, in nats.

    Args:
        increases: For each sublayer, scores of what is added to the stream it read.
        sublayers: The sublayers.
        k: How many.
        largest: False for the most suppressing neurons.
        max_bytes: A cap on the working set.
        check: Called with each sublayer before anything is scored.
        promoted: How many promoted tokens to note of each neuron scored in Phase 3.
        sums: How the places of the increases add up to results, where a result has several.
        kept: The exact scores that earlier searches of the same increases and sublayers found; new ones are added.
    """
    if increases[0].readout.transform is not None:
        scores = [neuron_scores(i, s, max_bytes=max_bytes) for i, s in zip(increases, sublayers, strict=True)]
        return _ranked(increases, sublayers, torch.cat([s.flatten(1) for s in scores], dim=1), k, largest, sums)

    # Phase 1: the gradient of log p(target) in every stream a sublayer reads
    gradients = gradients_of(increases)

    # Phase 2: Jensen's bound of every neuron
    written = [s.project_onto(g) for s, g in zip(sublayers, gradients, strict=True)]
    if check is not None:
        for sublayer, g, along in zip(sublayers, gradients, written, strict=True):
            check(sublayer, g, along)
    jensen = torch.cat([along.flatten(1) for along in written], dim=1)
    if increases[0].linear:
        return _ranked(increases, sublayers, jensen, k, largest, sums)
    psi = None if largest or sums is not None else torch.cat(psi_bounds(increases, sublayers), dim=1)
    if sums is not None:
        bounds = _bounds_of_results(increases, sublayers, jensen, largest, sums)
    else:
        bounds = jensen if psi is None else psi - jensen

    # Phase 3: exact scores, in the order of the bounds
    score = partial(kept_scores, {} if kept is None else kept, increases, sublayers, max_bytes=max_bytes)
    return _search(increases, sublayers, bounds, psi, k, 1 if largest else -1, score, promoted, sums)


def gradients_of(increases: Sequence[Increase]) -> list[Float[Tensor, "batch d_model"]]:
    """Return the gradient of log p(target) in each base stream: ``readout[w] - E_p[readout]``."""
    if increases[0].linear:
        return [each.direction for each in increases]
    mean_unembeddings(increases)
    return [i.readout.norm.adjoint(i.readout.columns(i.target) - i.mean) * i.readout.gain[:, None] for i in increases]


def _bounds_of_results(
    increases: Sequence[Increase],
    sublayers: Sequence[Sublayer],
    jensen: Float[Tensor, "place neuron_source"],
    largest: bool,
    sums: AnswerSums,
) -> Float[Tensor, "result neuron_source"]:
    """Return bounds of results, or of their negatives where the smallest are looked for.

    Each place's bound is widened by its own rounding, as a sum may be far smaller than what was added.
    """
    sign = 1 if largest else -1
    raised = (sums.sign_of_place == sign)[:, None]
    lowest = jensen if bool(raised.all()) else jensen - torch.cat(psi_bounds(increases, sublayers), dim=1)
    bounds = torch.where(raised, jensen, lowest)
    rounding = 16 * torch.finfo(bounds.dtype).eps * (1 + bounds.abs())
    return sign * _added(increases, sublayers, bounds + torch.where(raised, rounding, -rounding), sums)


def _added(
    increases: Sequence[Increase],
    sublayers: Sequence[Sublayer],
    values: Float[Tensor, "place neuron_source"],
    sums: AnswerSums,
) -> Float[Tensor, "result neuron_source"]:
    """Return values of every neuron at places, added up to results."""
    if sums.additive:
        return sums(values)
    by_sublayer = values.split([s.width * s.sources for s in sublayers], dim=1)
    base = [each.target_log_p()[:, None] for each in increases]
    return torch.cat([sums(v, b) for v, b in zip(by_sublayer, base, strict=True)], dim=1)


def _search(
    increases: Sequence[Increase],
    sublayers: Sequence[Sublayer],
    bounds: Float[Tensor, "batch neuron_source"],
    psi: Float[Tensor, "batch neuron_source"] | None,
    k: int,
    sign: int,
    score: Callable[..., Float[Tensor, "n"]],
    promoted: int,
    sums: AnswerSums | None,
) -> TopK:
    """Return the top ``k`` of ``sign`` times the scores, none of which is above its bound (Phase 3).

    ``score`` gives exact scores; ``psi`` is the part of the bounds that can be narrowed, if there is one.
    """
    narrow = NarrowBounds(increases, sublayers)
    coefficients = flat_coefficients(sublayers)
    results = [ResultPlaces.of(increases, sublayers, row, sums) for row in range(len(bounds))]
    walks = [
        BoundedWalk.start(bound, (coefficients[result.places] == 0).all(0), k, promoted, len(result.places))
        for bound, result in zip(bounds, results, strict=True)
    ]
    if psi is not None:
        for walk, likely in zip(walks, bounds - psi, strict=True):
            walk.begin_with(likely)
    while open_walks := [(result, walk) for result, walk in zip(results, walks, strict=True) if not walk.certified()]:
        chosen = [walk.next() for _, walk in open_walks]
        rows = torch.cat([r.places.repeat_interleave(len(f)) for (r, _), f in zip(open_walks, chosen, strict=True)])
        flat = torch.cat([f.repeat(len(r.places)) for (r, _), f in zip(open_walks, chosen, strict=True)])
        tokens = flat.new_full((len(flat), promoted), -1)
        noted = tokens if promoted else None
        scores = score(rows, flat, promoted=noted)
        sizes = [len(r.places) * len(f) for (r, _), f in zip(open_walks, chosen, strict=True)]
        for (result, walk), own, best in zip(open_walks, scores.split(sizes), tokens.split(sizes), strict=True):
            by_place = own.reshape(len(result.places), -1)
            strongest = best.reshape(*by_place.shape, promoted)[by_place.abs().argmax(0), range(by_place.shape[1])]
            walk.take(sign * result.score(by_place, walk.pending), strongest, by_place)
        if psi is not None:
            for row, walk in enumerate(walks):
                walk.narrow(narrow, row, psi[row])
    best = [walk.best() for walk in walks]
    return TopK(
        flat=torch.stack([flat for flat, *_ in best]),
        score=sign * torch.stack([score for _, score, *_ in best]),
        evaluated=torch.tensor([walk.evaluated for walk in walks]),
        promoted=torch.stack([tokens for _, _, tokens, _ in best]) if promoted else None,
        by_place=None if sums is None else torch.cat([by_place for *_, by_place in best]),
    )


def _ranked(
    increases: Sequence[Increase],
    sublayers: Sequence[Sublayer],
    scores: Float[Tensor, "place neuron_source"],
    k: int,
    largest: bool,
    sums: AnswerSums | None,
) -> TopK:
    """Return the top ``k`` of scores that are all known."""
    added = scores if sums is None else _added(increases, sublayers, scores, sums)
    flat = torch.stack([best_of(row if largest else -row, k) for row in added])
    by_place = None if sums is None else scores.gather(1, flat[sums.result_of_place])
    return TopK(
        flat, added.gather(1, flat), torch.full((len(added),), added.shape[1], device=flat.device), by_place=by_place
    )
