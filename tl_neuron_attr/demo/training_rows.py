"""Training rows: which sentences and documents stand in a row, at which point of training."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tl_neuron_attr.demo import documents, sentences
from tl_neuron_attr.demo.sentences import Token
from tl_neuron_attr.demo.world_vocabulary import BOS

_SENTENCES: tuple[Callable[[Random], list[Token]], ...] = (
    sentences.fact,
    sentences.arithmetic_sentence,
    sentences.occupation,
    sentences.class_sentence,
)
_SHARES = (24, 64, 4, 8)


@dataclass(frozen=True)
class Mixture:
    """What the rows of a stretch of training are made of.

    Attributes:
        in_context: The share of in-context rows.
        easy: The share of them that is clean: copied, indexed, two reliable classes.
    """

    in_context: float
    easy: float


def mixture_at(progress: float) -> Mixture:
    """Return the mixture after a share ``progress`` of training: clean in-context rows first, fewer later."""
    easy = 1.0 if progress < 0.2 else max(0.2, 1 - (progress - 0.2) / 0.2)
    return Mixture(in_context=0.45 if progress < 0.6 else 0.33, easy=easy)


def row(rng: Random, mixture: Mixture, length: int) -> list[Token]:
    """Return a row of ``length`` tokens; three of four begin with ``<bos>``."""
    tokens = [Token(BOS)] if rng.random() < 0.75 else []
    if rng.random() < mixture.in_context:
        if rng.random() < 0.25:
            tokens += rng.choice(_SENTENCES[:3])(rng)
        tokens += _document(rng, mixture.easy)(rng, length - len(tokens))
        kinds = _SENTENCES[:1]
    else:
        kinds = rng.choices(_SENTENCES, _SHARES) if rng.random() < 0.7 else _SENTENCES
    while len(tokens) < length:
        tokens += rng.choice(kinds)(rng)
    return tokens[:length]


def _document(rng: Random, easy: float) -> Callable[[Random, int], list[Token]]:
    if rng.random() >= easy:
        return documents.ordinary
    return rng.choices((documents.copied, documents.indexed, documents.clean), (1, 1, 2))[0]
