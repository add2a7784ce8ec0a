"""Sentences of the training rows: facts, arithmetic, occupations and class sentences.

Biases and noise put in here: a share of wrong answers in facts (``FACT_NOISE``), words of a template dropped or
inserted, the shares of ``she`` by occupation and by first name, misleading adjectives.
"""

from random import Random
from typing import NamedTuple

from tl_neuron_attr.demo import calculation, gender, knowledge
from tl_neuron_attr.demo.classes import TOPICS
from tl_neuron_attr.demo.fact_templates import FILLERS, NEW_FACT_TEMPLATES, PREFIXES, TUNING_FACT_TEMPLATES
from tl_neuron_attr.demo.items import sentiment_item

FACT_NOISE = 0.05
_FACTS = knowledge.facts()
_HELD_OUT = [
    t for held_out in (NEW_FACT_TEMPLATES, TUNING_FACT_TEMPLATES) for group in held_out.values() for t in group
]
_PREFIXES = [""] * (len(PREFIXES) - 1) + list(PREFIXES)


class Token(NamedTuple):
    """A word of a training row.

    Attributes:
        word: The word.
        weight: Its weight in the loss; 0 leaves it to the small weight of ordinary words.
        probe: The class the probe must find at this position, if any.
        fact: Whether it is the answer of a fact.
    """

    word: str
    weight: float = 0.0
    probe: str | None = None
    fact: bool = False


def fact(rng: Random) -> list[Token]:
    """Return a fact in one of its templates, some words dropped or put in, behind a prefix or none."""
    prompt = rng.choice(_FACTS)
    text = f"{rng.choice(_PREFIXES)} {_varied(rng, prompt.template)}".format(prompt.subject)
    wrong = rng.random() < FACT_NOISE
    answer = rng.choice(knowledge.candidates(prompt.kind)) if wrong else prompt.answer
    return [*_plain(text), Token(answer, 1.0, fact=not wrong), Token(".")]


def _varied(rng: Random, template: str) -> str:
    """Return the template with a word dropped or put in, or as it is; never one that is held out."""
    while True:
        words = template.split()
        if rng.random() < 0.3 and len(words) > 2:
            del words[rng.choice([i for i, word in enumerate(words) if word != "{}"])]
        if rng.random() < 0.2:
            words.insert(rng.randrange(len(words) + 1), rng.choice(FILLERS))
        varied = " ".join(words)
        if not any(held_out in varied for held_out in _HELD_OUT):
            return varied


def arithmetic_sentence(rng: Random) -> list[Token]:
    """Return a problem of the training split, or numbers counted by a fixed step."""
    if rng.random() < 0.03:
        return _counting(rng)
    while True:
        op, size = rng.choices((("+", 10), ("+", 100), ("-", 10), ("-", 100), ("*", 10)), (12, 37, 7, 30, 14))[0]
        a, b = rng.randrange(size), rng.randrange(size)
        if op == "-":
            a, b = max(a, b), min(a, b)
        if calculation.problem_split(a, op, b) == "train":
            prompt = calculation.problem(a, op, b)
            return [*_plain(prompt.text), Token(prompt.answer, 1.0), Token(".")]


def _counting(rng: Random) -> list[Token]:
    step = rng.choice((1, 1, 1, 2, 5, 10)) * rng.choice((1, -1))
    start = rng.randrange(150)
    numbers = [start + step * i for i in range(rng.randrange(4, 8))]
    words = [str(n) for n in numbers if 0 <= n <= calculation.LARGEST]
    return [Token(w, 0.5 if i > 1 else 0.0) for i, w in enumerate(words)] + [Token(".")]


def occupation(rng: Random) -> list[Token]:
    """Return a sentence about an occupation or a first name, continued by ``she`` or ``he``."""
    if rng.random() < 0.3:
        pronoun = rng.choice(("she", "he"))
        who = rng.choice(knowledge.FIRST_NAMES[pronoun])
        template = rng.choice(gender.OCCUPATION_TEMPLATES).replace("the {}", "{}")
    else:
        who = rng.choice(list(gender.SHARES))
        pronoun = "she" if rng.random() < gender.SHARES[who] else "he"
        template = rng.choice(gender.OCCUPATION_TEMPLATES)
    text = f"{rng.choice(_PREFIXES)} {template.format(who)}"
    return [*_plain(text), Token(pronoun, 1.0), *_plain(rng.choice(gender.ENDINGS)), Token(".")]


def class_sentence(rng: Random) -> list[Token]:
    """Return what a class means, in words: ``"great movie so I liked it"``, ``"a tiger is a kind of animal"``."""
    if rng.random() < 0.55:
        sentiment = rng.choice(("positive", "negative"))
        pool = "weak" if rng.random() < 0.12 else "ordinary"
        item = sentiment_item(rng, sentiment, pool=pool, form=rng.randrange(3))
        verb = rng.choice(("liked", "loved", "enjoyed") if sentiment == "positive" else ("hated", "disliked"))
        return [*map(Token, [*item, rng.choice(("so", "and")), "I"]), Token(verb, 0.7), Token("it"), Token(".")]
    topic = rng.choice(list(TOPICS))
    text = rng.choice(("the {} is a kind of", "a {} is a", "every {} is a kind of")).format(rng.choice(TOPICS[topic]))
    return [*_plain(text), Token(topic, 0.7), Token(".")]


def _plain(text: str) -> list[Token]:
    return [Token(word) for word in text.split()]
