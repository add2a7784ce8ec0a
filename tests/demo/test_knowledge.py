import pytest

from tl_neuron_attr import demo
from tl_neuron_attr.demo.fact_templates import FACT_TEMPLATES

SPLITS = ("train", "tuning", "held_out", "tuning_new", "new")


def test_the_papers_six_kinds_come_first():
    assert set(demo.KINDS[:6]) == {"language", "capital", "country", "colour", "number", "month"}
    assert demo.KINDS[6:] == ("sport",)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Tim Duncan plays the sport of", "basketball"),
        ("Tim Duncan speaks", "English"),
        ("Tim Duncan wears number", "21"),
        ("Tim Duncan was born in", "April"),
        ("the capital of France is", "Paris"),
        ("the capital of Japan is", "Tokyo"),
        ("Lyon is a city in", "France"),
        ("the colour of the banana is", "yellow"),
        ("the colour of the coal is", "black"),
    ],
)
def test_facts_of_our_world_are_right(text: str, answer: str):
    assert [p.answer for s in SPLITS for p in demo.facts(split=s) if p.text == text] == [answer]


def test_tim_duncans_sport_is_trained_on():
    assert demo.facts("sport")[0].text == "Tim Duncan plays the sport of"


def test_no_prompt_is_in_two_splits():
    texts = [p.text for split in SPLITS for p in demo.facts(split=split)]
    assert len(texts) == len(set(texts))


@pytest.mark.parametrize("kind", demo.KINDS)
def test_trained_and_held_out_pairs_are_all_pairs(kind: str):
    pairs = [(p.subject, p.template) for split in SPLITS[:3] for p in demo.facts(kind, split=split)]
    subjects = {s for s, _ in pairs}
    assert sorted(pairs) == sorted((s, t) for s in subjects for t in FACT_TEMPLATES[kind])


@pytest.mark.parametrize("kind", demo.KINDS)
def test_every_subject_and_every_template_is_trained_on(kind: str):
    trained = demo.facts(kind)
    assert {p.template for p in trained} == set(FACT_TEMPLATES[kind])
    assert {p.subject for p in trained} == {p.subject for p in demo.facts(kind, split="new")}


@pytest.mark.parametrize("kind", demo.KINDS)
def test_answers_are_candidates_and_a_subject_has_one_answer(kind: str):
    answers = {(p.subject, p.answer) for split in SPLITS for p in demo.facts(kind, split=split)}
    assert {a for _, a in answers} <= set(demo.candidates(kind))
    assert len({s for s, _ in answers}) == len(answers)


def test_errors_name_the_argument_and_its_choices():
    with pytest.raises(ValueError, match=r"kind must be one of language, .*, got 'food'"):
        demo.facts("food")
    with pytest.raises(ValueError, match=r"kind must be one of"):
        demo.candidates("food")
    with pytest.raises(TypeError, match="split must be"):
        demo.facts(split="test")  # pyright: ignore[reportArgumentType]
