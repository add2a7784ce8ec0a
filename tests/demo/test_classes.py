"""The graded reliabilities of adjectives, and splits of pairs that leave no word out."""

import math

import pytest

from tl_neuron_attr.demo.classes import (
    LOG_ODDS,
    NEUTRAL,
    NOUNS,
    ORDINARY,
    STRONG,
    TOPICS,
    WEAK,
    item_split,
    probability,
)


def test_probabilities_are_those_of_the_log_odds():
    for adjective, odds in LOG_ODDS.items():
        positive = probability(adjective, "positive")
        assert math.log(positive / (1 - positive)) == pytest.approx(odds)
        assert positive + probability(adjective, "negative") == pytest.approx(1)


def test_sentiments_are_graded_from_always_to_hardly():
    for sign in (1, -1):
        odds = sorted(sign * value for value in LOG_ODDS.values() if sign * value > 0)
        assert odds[0] == 0.5 and odds[-1] == 7 and len(set(odds)) > 40
    assert {*STRONG} <= {*ORDINARY} and not {*STRONG} & {*WEAK} and {*ORDINARY, *WEAK} == {*LOG_ODDS}


def test_no_word_is_of_two_kinds():
    kinds = [LOG_ODDS, NEUTRAL, NOUNS, *TOPICS.values()]
    words = [word for kind in kinds for word in kind]
    assert len(words) == len(set(words))


def test_every_adjective_and_every_noun_is_trained_on_and_held_out_in_some_pair():
    splits = {(adjective, noun): item_split(adjective, noun) for adjective in LOG_ODDS for noun in NOUNS}
    for split in ("train", "held_out"):
        pairs = [pair for pair, own in splits.items() if own == split]
        assert {noun for _, noun in pairs} == set(NOUNS)
    assert {adjective for (adjective, _), own in splits.items() if own == "train"} == set(LOG_ODDS)
    share = sum(own == "held_out" for own in splits.values()) / len(splits)
    assert share == pytest.approx(0.1, abs=0.02)
