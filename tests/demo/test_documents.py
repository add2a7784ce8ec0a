"""In-context documents: what is held out stays out, and the biases put in are there."""

from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from tl_neuron_attr.demo import documents
from tl_neuron_attr.demo.classes import LOG_ODDS, NOUNS, SENTIMENTS, TOPICS, item_split


def test_queried_pairs_are_not_trained_on_as_items():
    rng = Random(1)
    for _ in range(500):
        words = [t.word for t in documents.ordinary(rng, 47)]
        for first, second in pairwise(words):
            if first in LOG_ODDS and second in NOUNS:
                assert item_split(first, second) == "train"


def test_a_label_weighs_little_until_it_was_seen():
    rng = Random(4)
    for _ in range(200):
        tokens = documents.ordinary(rng, 47)
        seen: set[str] = set()
        for before, token in pairwise(tokens):
            if before.word in (":", "->", "=") and token.weight:
                assert token.weight == (1.0 if token.word in seen else documents.FIRST) or token.word in (
                    "positive",
                    "negative",
                )
                seen.add(token.word)


def test_class_sequences_are_sticky_and_imbalanced():
    rng = Random(5)
    repeats = Counter[bool]()
    for _ in range(500):
        labels = [b.word for a, b in pairwise(documents.ordinary(rng, 47)) if a.word in (":", "->", "=")]
        repeats.update(x == y for x, y in pairwise(labels))
    assert 0.6 < repeats[True] / repeats.total() < 0.85


@pytest.mark.parametrize("kind", [documents.copied, documents.indexed, documents.clean, documents.ordinary])
def test_a_document_fits_and_its_seed_fixes_it(kind):
    for seed in range(50):
        tokens = kind(Random(seed), 40)
        assert 20 <= len(tokens) <= 40 and tokens == kind(Random(seed), 40)


def test_copied_words_weigh_from_their_second_time_on():
    for seed in range(50):
        tokens = documents.copied(Random(seed), 40)
        period = next(i for i, token in enumerate(tokens) if token.weight)
        assert all(a.word == b.word for a, b in zip(tokens, tokens[period:], strict=False))


def test_an_indexed_item_comes_back_with_a_label_it_had():
    again = 0
    for seed in range(100):
        sentence, seen = [], set()
        for token in documents.indexed(Random(seed), 47):
            sentence.append(token)
            if token.word == ".":
                at = next(i for i, t in enumerate(sentence) if t.weight)
                pair = tuple(t.word for t in sentence[: at + 1] if t.word != ":")
                assert sentence[at].weight == documents.FIRST or pair in seen
                again += pair in seen
                seen.add(pair)
                sentence = []
    assert again > 100


def test_the_probe_of_a_clean_document_is_the_class_of_the_item():
    for seed in range(100):
        item = []
        for token in documents.clean(Random(seed), 47):
            if token.word == ":":
                assert token.probe in (*SENTIMENTS, *TOPICS)
                if token.probe in TOPICS:
                    assert item[-1] in TOPICS[token.probe]
            item = [] if token.word == "." else [*item, token.word]
