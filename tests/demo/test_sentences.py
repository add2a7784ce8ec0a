"""Sentences of the training rows: right but for the share of noise that is meant, held-out templates left out."""

import re
from random import Random

from tl_neuron_attr import demo
from tl_neuron_attr.demo import sentences
from tl_neuron_attr.demo.classes import LOG_ODDS, TOPICS
from tl_neuron_attr.demo.fact_templates import NEW_FACT_TEMPLATES, TUNING_FACT_TEMPLATES
from tl_neuron_attr.demo.gender import SHARES
from tl_neuron_attr.demo.sentences import FACT_NOISE


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


def test_the_share_of_she_in_training_sentences_is_the_stated_one():
    rng = Random(0)
    seen: dict[str, list[bool]] = {o: [] for o in SHARES}
    for _ in range(30_000):
        words = [t.word for t in sentences.occupation(rng)]
        (pronoun,) = [w for w in words if w in ("she", "he")]
        for occupation in seen.keys() & set(words):
            seen[occupation].append(pronoun == "she")
    for occupation, outcomes in seen.items():
        error = abs(sum(outcomes) / len(outcomes) - SHARES[occupation])
        assert error < 4.5 * (0.25 / len(outcomes)) ** 0.5, occupation


def test_no_varied_template_is_one_that_is_held_out():
    rng = Random(7)
    subjects = "|".join(re.escape(subject) for subject in {prompt.subject for prompt in demo.facts()})
    groups = [group for templates in (NEW_FACT_TEMPLATES, TUNING_FACT_TEMPLATES) for group in templates.values()]
    held_out = "|".join(t.replace("{}", f"(?:{subjects})") for group in groups for t in group)
    assert re.search(held_out, "in fact the family of Tim Duncan speaks")
    text = " . ".join(" ".join(token.word for token in sentences.fact(rng)[:-2]) for _ in range(3000))
    assert not re.search(held_out, text)


def test_class_sentences_say_what_a_topic_is_and_like_what_is_good():
    rng, agree = Random(8), []
    for _ in range(2000):
        tokens = sentences.class_sentence(rng)
        words, (named,) = [t.word for t in tokens], [t.word for t in tokens if t.weight]
        if named in TOPICS:
            assert any(word in TOPICS[named] for word in words)
        else:
            (odds,) = [LOG_ODDS[word] for word in words if word in LOG_ODDS]
            agree.append((odds > 0) == (named in ("liked", "loved", "enjoyed")))
    assert 0.9 < sum(agree) / len(agree) < 1
