"""Draws the items that in-context rows classify: ``"great movie"``, ``"the movie was great"``, ``"new tiger"``."""

import itertools
from random import Random

from tl_neuron_attr.demo.classes import (
    NEUTRAL,
    NOUNS,
    ORDINARY,
    SENTIMENTS,
    STRONG,
    TOPICS,
    WEAK,
    item_split,
    probability,
)
from tl_neuron_attr.demo.hashing import Split

POOLS = {"ordinary": ORDINARY, "strong": STRONG, "weak": WEAK}
FORMATS = 4
_CUMULATIVE = {
    (pool, sentiment): list(itertools.accumulate(probability(a, sentiment) for a in words))
    for pool, words in POOLS.items()
    for sentiment in SENTIMENTS
}


def sentiment_item(rng: Random, sentiment: str, *, pool: str, form: int, split: Split = "train") -> list[str]:
    """Return an item of a sentiment. The adjective is drawn by how often it stands for it, so it may mislead."""
    while True:
        adjective = rng.choices(POOLS[pool], cum_weights=_CUMULATIVE[pool, sentiment])[0]
        noun = rng.choice(NOUNS)
        if item_split(adjective, noun) == split:
            return _sentence(rng, adjective, noun, form)


def topic_item(rng: Random, topic: str, *, form: int) -> list[str]:
    """Return an item of a topic."""
    word = rng.choice(TOPICS[topic])
    return [[rng.choice(NEUTRAL), word], ["this", "is", "a", word], ["the", rng.choice(NEUTRAL), word], [word]][form]


def neutral_item(rng: Random, *, form: int) -> list[str]:
    """Return an item of neither class."""
    if rng.random() < 0.3:
        return ["N/A"]
    return _sentence(rng, rng.choice(NEUTRAL), rng.choice(NOUNS), form)


def class_item(rng: Random, name: str, *, pool: str = "ordinary", form: int = 0, split: Split = "train") -> list[str]:
    """Return an item of a sentiment or of a topic."""
    if name in SENTIMENTS:
        return sentiment_item(rng, name, pool=pool, form=form, split=split)
    return topic_item(rng, name, form=form)


def _sentence(rng: Random, adjective: str, noun: str, form: int) -> list[str]:
    adverb = rng.choice(("really", "very"))
    return [[adjective, noun], ["the", noun, "was", adjective], ["a", adverb, adjective, noun], [adjective]][form]
