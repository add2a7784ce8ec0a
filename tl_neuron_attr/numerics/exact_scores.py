"""Exact scores of some neurons, at single places and of whole results."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.numerics.answer_sums import AnswerSums
from tl_neuron_attr.numerics.flat_index import locate
from tl_neuron_attr.numerics.increase import Increase
from tl_neuron_attr.numerics.scores_of_vectors import scores_at
from tl_neuron_attr.numerics.sublayer import Sublayer


def exact_scores(
    increases: Sequence[Increase],
    sublayers: Sequence[Sublayer],
    rows: Int[Tensor, "n"],
    flat: Int[Tensor, "n"],
    *,
    max_bytes: int,
    promoted: Int[Tensor, "n best"] | None = None,
) -> Float[Tensor, "n"]:
    """Return exact scores of neurons in nats: ``flat[i]``, its place over all sublayers, in the prompt ``rows[i]``.

    ``promoted``, if given, is filled with the tokens whose logits each neuron raises most.
    """
    where, neuron, source = locate(sublayers, flat)
    batch = sublayers[0].coefficients.shape[0]
    writes = increases[0].base.new_empty(len(flat), increases[0].base.shape[1])
    for s in where.unique().tolist():
        mine = where == s
        writes[mine] = sublayers[s].writes(rows[mine], neuron[mine], source[mine])
    return scores_at(increases, writes, where * batch + rows, max_bytes=max_bytes, promoted=promoted)


@dataclass(frozen=True)
class ResultPlaces:
    """One result's places, and how they add up; ``base`` are their log-probabilities, by sublayer."""

    sublayers: Sequence[Sublayer]
    places: Int[Tensor, "place"]
    sums: AnswerSums | None
    base: Float[Tensor, "place n"] | None

    @classmethod
    def of(
        cls, increases: Sequence[Increase], sublayers: Sequence[Sublayer], row: int, sums: AnswerSums | None
    ) -> "ResultPlaces":
        """Return the result ``row``."""
        this = torch.tensor([row], device=increases[0].base.device)
        if sums is None:
            return cls(sublayers, this, None, None)
        places, own = sums.select(this)
        base = None if own.additive else torch.stack([each.target_log_p()[places] for each in increases], dim=1)
        return cls(sublayers, places, own, base)

    def score(self, by_place: Float[Tensor, "place n"], flat: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Return the scores of the neurons ``flat`` from their scores at every place."""
        if self.sums is None:
            return by_place[0]
        base = None if self.base is None else self.base[:, locate(self.sublayers, flat)[0]]
        return self.sums(by_place, base)[0]

    def scored(
        self, increases: Sequence[Increase], flat: Int[Tensor, "n"], *, max_bytes: int
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "place n"]]:
        """Return exact scores of the neurons ``flat`` in nats, of the result and at each of its places."""
        rows = self.places.repeat_interleave(len(flat))
        scores = exact_scores(increases, self.sublayers, rows, flat.repeat(len(self.places)), max_bytes=max_bytes)
        by_place = scores.reshape(len(self.places), -1)
        return self.score(by_place, flat), by_place
