"""Paper 1's two scores by rank (section 4.1, f and h), for all prompts of a study in one pass over the vocabulary.

A token's rank among what a neuron's direction promotes depends on weights alone: the final norm's scale is positive,
and keeps the order. So every neuron's direction is read out once, and compared with the targets of all prompts.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.knowledge.baselines import inverse_ranks
from tl_neuron_attr.model.batches import AnswerBatch
from tl_neuron_attr.model.scored_cache import ScoredCache
from tl_neuron_attr.numerics.increase import MAX_BYTES
from tl_neuron_attr.numerics.sublayer import Sublayer

ByRank = Literal["rank", "coefficient_rank"]
BY_RANK: tuple[ByRank, ...] = ("rank", "coefficient_rank")


class RankScores:
    """Scores by rank of the targets of some batches.

    Args:
        batches: The batches that are to be scored.
        max_bytes: A cap on the ranks kept; those of one batch are kept at the least.
    """

    def __init__(self, batches: Sequence[AnswerBatch], max_bytes: int = MAX_BYTES) -> None:
        targets = [batch.target.flatten().cpu() for batch in batches]
        self._waiting = torch.cat([torch.zeros(0, dtype=torch.long), *targets]).unique()
        self._max_bytes = max_bytes
        self._tokens = self._waiting[:0]
        self._inverse: list[Float[Tensor, "token d_mlp"]] = []

    @torch.no_grad()
    def scores(self, q: ScoredCache, score: ByRank) -> Float[Tensor, "batch layer d_mlp"]:
        """Return what :func:`~tl_neuron_attr.baseline_scores` gives; of an answer, the sum over its tokens."""
        sublayers = list(q.checked_sublayers(("mlp",)))
        targets = q.target.cpu()
        if not bool(torch.isin(targets, self._tokens).all()):
            self._read(q, sublayers, targets.unique())
        rows = torch.searchsorted(self._tokens, targets)
        found = [inverse[rows.to(inverse.device)] for inverse in self._inverse]
        if score == "coefficient_rank":
            found = [each * s.coefficients[..., 0].abs() for each, s in zip(found, sublayers, strict=True)]
        return q.finish(torch.stack(found, dim=1))

    def _read(self, q: ScoredCache, sublayers: Sequence[Sublayer], needed: Int[Tensor, "n"]) -> None:
        """Read the ranks of the tokens needed now, and of as many that are still waiting as fit."""
        neurons = sum(sublayer.width for sublayer in sublayers)
        fitting = self._max_bytes // (neurons * q.readout.dtype.itemsize)
        later = self._waiting[~torch.isin(self._waiting, needed)]
        self._tokens = torch.cat([needed, later[: max(0, fitting - len(needed))]]).sort().values
        self._waiting = self._waiting[~torch.isin(self._waiting, self._tokens)]
        self._inverse = [inverse_ranks(q.readout, s, self._tokens, max_bytes=q.max_bytes) for s in sublayers]
