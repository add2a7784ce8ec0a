from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from tl_neuron_attr import demo
from tl_neuron_attr.demo import documents, sentences
from tl_neuron_attr.demo.classes import LOG_ODDS, NOUNS, item_split
from tl_neuron_attr.demo.labels import UNSEEN
from tl_neuron_attr.demo.sentences import FACT_NOISE
from tl_neuron_attr.demo.training_rows import Mixture, mixture_at, row
from tl_neuron_attr.demo.world_vocabulary import IDS


@pytest.fixture(scope="module")
def rows() -> list[list[sentences.Token]]:
    rng = Random(0)
    return [row(rng, mixture_at(i / 3000), 49) for i in range(3000)]


def test_rows_have_the_length_and_known_words(rows: list[list[sentences.Token]]):
    assert {len(r) for r in rows} == {49}
    assert {t.word for r in rows for t in r} <= set(IDS)
    assert {t.probe for r in rows for t in r if t.probe} <= set(IDS)


def test_a_seed_fixes_a_row():
    assert row(Random(5), mixture_at(0.5), 49) == row(Random(5), mixture_at(0.5), 49)


def test_nothing_held_out_is_trained_on(rows: list[list[sentences.Token]]):
    text = " . ".join(" ".join(t.word for t in r) for r in rows)
    sums = [p for split in ("tuning", "held_out") for p in demo.arithmetic(split=split)]  # pyright: ignore[reportArgumentType]
    assert not [p.text for p in sums if f". {p.text} {p.answer} ." in text]
    assert not [p.text for split in ("tuning_new", "new") for p in demo.facts(split=split) if p.text in text]  # pyright: ignore[reportArgumentType]


def test_queried_pairs_are_not_trained_on_as_items():
    rng = Random(1)
    for _ in range(500):
        words = [t.word for t in documents.ordinary(rng, 47)]
        for first, second in pairwise(words):
            if first in LOG_ODDS and second in NOUNS:
                assert item_split(first, second) == "train"


def test_unseen_labels_never_follow_a_separator(rows: list[list[sentences.Token]]):
    pairs = [(a.word, b.word) for r in rows for a, b in pairwise(r)]
    assert not [b for a, b in pairs if a in (":", "->", "=") and b in UNSEEN]
    assert {b for _, b in pairs} >= set(UNSEEN)


def test_a_share_of_fact_answers_is_wrong_and_unmarked():
    rng = Random(2)
    answers = [next(t for t in sentences.fact(rng) if t.weight == 1.0) for _ in range(20_000)]
    wrong = sum(not t.fact for t in answers) / len(answers)
    assert abs(wrong - FACT_NOISE) < 0.01


def test_arithmetic_in_rows_is_right():
    rng = Random(3)
    for _ in range(3000):
        words = [t.word for t in sentences.arithmetic_sentence(rng)]
        if words[1] in "+-*":
            a, op, b, _, c, _ = words
            assert {
                "+": int(a) == int(c) - int(b),
                "-": int(a) == int(c) + int(b),
                "*": int(c) == sum([int(a)] * int(b)),
            }[op]


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


def test_clean_rows_come_first_and_in_context_rows_become_fewer():
    assert mixture_at(0.0) == Mixture(in_context=0.45, easy=1.0)
    assert mixture_at(0.9) == Mixture(in_context=0.33, easy=0.2)
    easy = [mixture_at(i / 20).easy for i in range(20)]
    assert easy == sorted(easy, reverse=True)
