"""A walk through neurons in the order of their bounds, which ends when the best of them are certain."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.numerics.flat_index import best_of
from tl_neuron_attr.numerics.narrow_bounds import NarrowBounds

FIRST_SPARE = 2
"""Neurons scored exactly at first beyond ``k``: bounds of trained models are so tight that these are often enough."""

FEWEST, MOST = 32, 512
"""Neurons scored at a time after that: fewer waste a pass over ``W_U``, and twice as many each time, up to the most,
cost a long search at most twice the neurons it needs."""


class BoundedWalk:
    """Neurons of one prompt in the order of their bounds, scored until the best ``k`` are certain."""

    def __init__(
        self, bound: Float[Tensor, "n"], k: int, known: Int[Tensor, "known"], promoted: int, places: int
    ) -> None:
        self.bound, self.k = bound, k
        self.flat, self.scores = known, bound.new_zeros(len(known))
        self.by_place = bound.new_zeros(places, len(known))
        self.promoted = known.new_full((len(known), promoted), -1)
        self.evaluated, self._count = 0, k + FIRST_SPARE
        self._unranked = False
        self._rank(4 * (k + FEWEST))

    @classmethod
    def start(cls, bound: Float[Tensor, "n"], silent: Tensor, k: int, promoted: int, places: int = 1) -> "BoundedWalk":
        """Return a walk that knows the score of silent neurons: zero. The first ``k`` of them are enough."""
        return cls(bound.masked_fill(silent, -torch.inf), k, silent.nonzero()[:k, 0], promoted, places)

    def certified(self) -> bool:
        """Return whether no unscored neuron can enter the top k; the margin covers the rounding of bound and score."""
        if self._unranked:
            return False
        if self.evaluated == len(self.order):
            self._rank(4 * len(self.order))
        ahead = (
            self.bound[self.order[self.evaluated]]
            if self.evaluated < len(self.order)
            else self.bound.new_tensor(-torch.inf)
        )
        if bool(ahead.isneginf()):
            return True
        return len(self.scores) >= self.k and bool(self.scores.topk(self.k).values[-1] > ahead + self._margin(ahead))

    def next(self) -> Int[Tensor, "n"]:
        """Return the next neurons to score: none whose bound the k-th best score beats already."""
        self.pending = self.order[self.evaluated : self.evaluated + min(self._count, self._undecided())]
        self._count = min(MOST, 2 * self._count) if self.evaluated else FEWEST
        return self.pending

    def take(
        self,
        scores: Float[Tensor, "n"],
        promoted: Int[Tensor, "n best"],
        by_place: Float[Tensor, "place n"] | None = None,
    ) -> None:
        """Take the scores of the neurons of :meth:`next`, the tokens they promote, and their scores at each place."""
        live = ~self.bound[self.pending].isneginf()
        self.flat = torch.cat([self.flat, self.pending[live]])
        self.scores = torch.cat([self.scores, scores[live]])
        self.promoted = torch.cat([self.promoted, promoted[live]])
        self.by_place = torch.cat([self.by_place, (scores[None] if by_place is None else by_place)[:, live]], dim=1)
        self.evaluated += len(self.pending)

    def begin_with(self, likely: Float[Tensor, "n"]) -> None:
        """Score first the neurons of the highest ``likely``, whatever their bounds; :meth:`narrow` has to follow."""
        self.order = likely.masked_fill(self.bound.isneginf(), -torch.inf).topk(min(self._count, len(likely))).indices
        self._unranked = True

    def narrow(self, narrow: NarrowBounds, row: int, psi: Float[Tensor, "n"]) -> None:
        """Narrow the bounds of all neurons still undecided once the likeliest are scored, where it pays."""
        if not self._unranked:
            return
        self._unranked = False
        self.bound[self.order] = torch.inf  # what is scored stays in front
        if len(self.scores) >= self.k:
            undecided = (self.bound > self.scores.topk(self.k).values[-1]) & ~self.bound.isposinf()
            flat = undecided.nonzero()[:, 0]
            if len(flat) > narrow.pays:
                self.bound[flat] += (narrow.psi(row, flat) - psi[flat]).clamp_max(0)
            self._count = MOST  # the best are scored: what is undecided now has to be
        self._rank(self.evaluated + 4 * (self.k + FEWEST))

    def best(
        self,
    ) -> tuple[Int[Tensor, "k"], Float[Tensor, "k"], Int[Tensor, "k best"], Float[Tensor, "place k"]]:
        """Return the best k, their scores, the tokens they promote, and their scores at each place."""
        by_index = self.flat.sort()
        scores = self.scores[by_index.indices]
        best = best_of(scores, self.k)
        chosen = by_index.indices[best]
        return by_index.values[best], scores[best], self.promoted[chosen], self.by_place[:, chosen]

    def _undecided(self) -> int:
        """Return how many of the next neurons can still enter the top k; one at the least."""
        ahead = self.bound[self.order[self.evaluated : self.evaluated + self._count]]
        if self._unranked or len(self.scores) < self.k:
            return len(ahead)
        return max(1, int((ahead + self._margin(ahead) >= self.scores.topk(self.k).values[-1]).sum()))

    def _margin(self, bound: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Return what rounding of bound and score may come to."""
        return 16 * torch.finfo(bound.dtype).eps * (1 + bound.abs())

    def _rank(self, count: int) -> None:
        self.order = self.bound.topk(min(count, len(self.bound))).indices
