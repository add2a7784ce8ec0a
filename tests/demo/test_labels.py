"""Labels say nothing of a class, and those that are kept unseen are."""

from itertools import pairwise
from random import Random

from tl_neuron_attr.demo.classes import LOG_ODDS, NEUTRAL, NOUNS, SENTIMENTS, TOPICS
from tl_neuron_attr.demo.labels import NONSENSE, UNSEEN, UNSEEN_WORDS
from tl_neuron_attr.demo.training_rows import mixture_at, row
from tl_neuron_attr.demo.world_vocabulary import IDS


def test_unseen_labels_are_not_labels_in_training():
    assert not set(UNSEEN) & set(NONSENSE)


def test_unseen_labels_never_follow_a_separator():
    rng = Random(0)
    rows = [row(rng, mixture_at(i / 3000), 49) for i in range(3000)]
    pairs = [(a.word, b.word) for r in rows for a, b in pairwise(r)]
    assert not [b for a, b in pairs if a in (":", "->", "=") and b in UNSEEN]
    assert {b for _, b in pairs} >= set(UNSEEN)


def test_labels_are_tokens_that_no_item_holds():
    items = {*LOG_ODDS, *NEUTRAL, *NOUNS, *SENTIMENTS, *TOPICS, *(word for words in TOPICS.values() for word in words)}
    assert not items & {*NONSENSE, *UNSEEN}
    assert {*NONSENSE, *UNSEEN, *UNSEEN_WORDS} <= set(IDS)
