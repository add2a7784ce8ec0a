"""Exact top-k of the log-probability increase, without scoring every neuron.

With ``x`` a neuron's logit contributions and ``p`` the distribution its sublayer started from, the score of token ``w``
is ``x[w] - log E_p[exp x]`` (paper 1, Eq. 13). Forms that cost one inner product a neuron bound it from both sides:

    score <= x[w] - E_p[x] = <v, g>         Jensen: exp is convex
    score >= <v, g> - psi(v)                psi bounds log E_p[exp(x - E_p[x])], see ``bounds.py``

with ``g = readout[w] - E_p[readout]``, the gradient of log p(w) in the stream.

Phase 1  read out every stream a sublayer reads, and form its ``g``;
Phase 2  bound every neuron with one matrix-vector product a sublayer;
Phase 3  score neurons exactly in the order of their bounds, until the k-th best score beats the next bound.

What Phase 3 returns is the exact top k: no neuron left out can pass its bound. A neuron whose coefficient is zero
scores exactly zero and is never evaluated. For the most suppressing neurons all signs are turned round.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.numerics.bounds import psi
from tl_neuron_attr.numerics.flat_index import best_of, locate
from tl_neuron_attr.numerics.increase import MAX_BYTES, Increase, rows_within
from tl_neuron_attr.numerics.sublayer import Sublayer

FIRST_SPARE, TILE = 2, 32
"""Neurons scored exactly at first beyond ``k``, and then at a time."""


@dataclass(frozen=True)
class TopK:
    """The k best of all neurons, counted with their sources in the order of the sublayers.

    Attributes:
        flat: Their places in that order.
        score: Their exact scores, best first, ties by place.
        evaluated: How many neurons were scored exactly to be sure.
    """

    flat: Int[Tensor, "batch k"]
    score: Float[Tensor, "batch k"]
    evaluated: Int[Tensor, "batch"]


def certified_topk(
    increase: Increase,
    sublayers: Sequence[Sublayer],
    bounds: Float[Tensor, "batch neuron_source"],
    k: int,
    *,
    largest: bool = True,
    max_bytes: int = MAX_BYTES,
) -> TopK:
    """The exact top ``k`` over the neurons of ``sublayers``, in nats.

    Args:
        increase: One row a sublayer and prompt: row ``s * batch + b`` is what sublayer ``s`` read in prompt ``b``.
        sublayers: The sublayers.
        bounds: Jensen's bound of every neuron, in the order of the sublayers: what it wrote along :func:`gradient`.
        k: How many.
        largest: False for the most suppressing neurons.
        max_bytes: A cap on the working set.
    """
    coefficients = torch.cat([s.coefficients.flatten(1) for s in sublayers], dim=1)
    sign = 1 if largest else -1
    if not largest:
        bounds = torch.cat([psi(increase, s, i) for i, s in enumerate(sublayers)], dim=1) - bounds
    walks = [_Walk.start(bound, c == 0, k) for bound, c in zip(bounds, coefficients, strict=True)]
    while open_walks := [(row, walk) for row, walk in enumerate(walks) if not walk.certified()]:
        chosen = [walk.next() for _, walk in open_walks]
        rows = torch.cat([torch.full_like(flat, row) for (row, _), flat in zip(open_walks, chosen, strict=True)])
        scores = sign * exact_scores(increase, sublayers, rows, torch.cat(chosen), max_bytes=max_bytes)
        for (_, walk), part in zip(open_walks, scores.split([len(flat) for flat in chosen]), strict=True):
            walk.take(part)
    best = [walk.best() for walk in walks]
    return TopK(
        flat=torch.stack([flat for flat, _ in best]),
        score=sign * torch.stack([score for _, score in best]),
        evaluated=torch.tensor([walk.evaluated for walk in walks]),
    )


def gradient(increase: Increase) -> Float[Tensor, "row d_model"]:
    """The gradient of log p(target) in the stream: ``readout[w] - E_p[readout]``."""
    if increase.linear:
        return increase.direction
    readout = increase.readout
    mean = readout.embed(increase.p)
    return readout.norm.adjoint(readout.columns(increase.target) - mean) * readout.gain[:, None]


def exact_scores(
    increase: Increase, sublayers: Sequence[Sublayer], rows: Int[Tensor, "n"], flat: Int[Tensor, "n"], *, max_bytes: int
) -> Float[Tensor, "n"]:
    """Exact scores of the neurons ``flat`` (their places over all sublayers) of the prompts ``rows``, in nats."""
    where, neuron, source = locate(sublayers, flat)
    batch = sublayers[0].coefficients.shape[0]
    writes = increase.base.new_empty(len(flat), increase.base.shape[1])
    for s in where.unique().tolist():
        mine = where == s
        writes[mine] = sublayers[s].writes(rows[mine], neuron[mine], source[mine])
    at = where * batch + rows
    step = rows_within(max_bytes, increase.readout)
    parts = zip((writes * increase.readout.gain[at][:, None]).split(step), at.split(step), strict=True)
    return torch.cat([increase.of_contributions(increase.readout.project(v), r) for v, r in parts])


class _Walk:
    """Phase 3 for one prompt: neurons in the order of their bounds, scored until the best k are certain."""

    def __init__(self, bound: Float[Tensor, "n"], k: int, known: Int[Tensor, "known"]) -> None:
        self.bound, self.k = bound, k
        self.flat, self.scores = known, bound.new_zeros(len(known))
        self.evaluated = 0
        self._rank(4 * (k + TILE))

    @classmethod
    def start(cls, bound: Float[Tensor, "n"], silent: Tensor, k: int) -> "_Walk":
        """A walk that knows the score of silent neurons: zero. The first ``k`` of them are enough."""
        return cls(bound.masked_fill(silent, -torch.inf), k, silent.nonzero()[:k, 0])

    def certified(self) -> bool:
        """Whether no unscored neuron can enter the top k; the margin covers the rounding of a bound and of a score."""
        if self.evaluated == len(self.order):
            self._rank(4 * len(self.order))
        ahead = (
            self.bound[self.order[self.evaluated]]
            if self.evaluated < len(self.order)
            else self.bound.new_tensor(-torch.inf)
        )
        if bool(ahead.isneginf()):
            return True
        margin = 16 * torch.finfo(self.bound.dtype).eps * (1 + ahead.abs())
        return len(self.scores) >= self.k and bool(self.scores.topk(self.k).values[-1] > ahead + margin)

    def next(self) -> Int[Tensor, "tile"]:
        """The next neurons to score."""
        count = TILE if self.evaluated else self.k + FIRST_SPARE
        self._pending = self.order[self.evaluated : self.evaluated + count]
        return self._pending

    def take(self, scores: Float[Tensor, "tile"]) -> None:
        """Scores of the neurons of :meth:`next`."""
        live = ~self.bound[self._pending].isneginf()
        self.flat = torch.cat([self.flat, self._pending[live]])
        self.scores = torch.cat([self.scores, scores[live]])
        self.evaluated += len(self._pending)

    def best(self) -> tuple[Int[Tensor, "k"], Float[Tensor, "k"]]:
        """The best k and their scores."""
        by_place = self.flat.sort()
        scores = self.scores[by_place.indices]
        best = best_of(scores, self.k)
        return by_place.values[best], scores[best]

    def _rank(self, count: int) -> None:
        self.order = self.bound.topk(min(count, len(self.bound))).indices
