from random import Random

import pytest

from tl_neuron_attr import demo
from tl_neuron_attr.demo import sentences
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


def test_clean_rows_come_first_and_in_context_rows_become_fewer():
    assert mixture_at(0.0) == Mixture(in_context=0.45, easy=1.0)
    assert mixture_at(0.9) == Mixture(in_context=0.33, easy=0.2)
    easy = [mixture_at(i / 20).easy for i in range(20)]
    assert easy == sorted(easy, reverse=True)
