"""What the model said: the token followed, its rank, and the likeliest answers."""

from dataclasses import dataclass
from math import exp
from typing import Any

from tl_neuron_attr.model.scored_cache import ScoredCache
from tl_neuron_attr.numerics.ranked_tokens import ranks_of
from tl_neuron_attr.results.token_text import token_text, visible

LIKELIEST = 10
"""Answers listed: what a page shows without scrolling."""

_ENDINGS = {1: "st", 2: "nd", 3: "rd"}


@dataclass(frozen=True)
class Prediction:
    """The target and its rivals, with their probabilities.

    Attributes:
        target: The token followed.
        text: Its text.
        contrast: The text of the token it is compared with; empty without one.
        log_prob: The target's log-probability.
        rank: How many tokens are at least as likely, the target among them.
        likeliest: The likeliest tokens, the likeliest first.
        answers: Their texts and probabilities.
    """

    target: int
    text: str
    contrast: str
    log_prob: float
    rank: int
    likeliest: list[int]
    answers: list[tuple[str, float]]

    @classmethod
    def of(cls, q: ScoredCache) -> "Prediction":
        """Return the prediction of one prompt."""
        log_probs, target = q.log_probs()[0], int(q.target[0])
        top = log_probs.topk(min(LIKELIEST, len(log_probs)))
        likeliest: list[int] = top.indices.tolist()
        model: Any = q.stream.model
        return cls(
            target=target,
            text=token_text(model, target),
            contrast="" if q.contrast is None else token_text(model, int(q.contrast[0])),
            log_prob=float(log_probs[target]),
            rank=int(ranks_of(log_probs, q.target[0])),
            likeliest=likeliest,
            answers=list(zip([token_text(model, t) for t in likeliest], top.values.exp().tolist(), strict=True)),
        )

    @property
    def prob(self) -> float:
        """The target's probability."""
        return exp(self.log_prob)

    @property
    def title(self) -> str:
        """The title of a page about it."""
        word = self.text.strip()
        return f"What made the model say {word or visible(self.text)}?"

    @property
    def standing(self) -> str:
        """What to add to the title where the target is not the first choice: ``"ranked 2nd"``; else empty."""
        return "" if self.rank == 1 else f"ranked {ordinal(self.rank)}"


def ordinal(n: int) -> str:
    """Return a number as a rank.

    Examples:
        >>> [ordinal(n) for n in (1, 2, 3, 11, 22, 1013)]
        ['1st', '2nd', '3rd', '11th', '22nd', '1,013th']
    """
    return f"{n:,}{'th' if n % 100 in (11, 12, 13) else _ENDINGS.get(n % 10, 'th')}"
