"""The words of the demo world, one token each; a word's id is its place in ``WORDS``."""

from collections.abc import Iterable, Iterator

from tl_neuron_attr.demo import calculation, classes, fact_templates, gender, knowledge, labels
from tl_neuron_attr.demo.text import words

PAD, BOS, UNKNOWN = "<pad>", "<bos>", "<unk>"
SENTENCE_WORDS = words("so I liked loved enjoyed hated disliked it kind an he she thing item something N/A and a this")


def _groups() -> Iterator[Iterable[str]]:
    yield PAD, BOS, UNKNOWN, *words(". : , = + - * ->")
    yield map(str, range(calculation.LARGEST + 1))
    for kind, answers in knowledge.ANSWERS.items():
        yield (word for subject in answers for word in subject.split())
        yield knowledge.candidates(kind)
    yield knowledge.FIRST_NAMES["he"] + knowledge.FIRST_NAMES["she"]
    for templates in (
        fact_templates.FACT_TEMPLATES,
        fact_templates.TUNING_FACT_TEMPLATES,
        fact_templates.NEW_FACT_TEMPLATES,
    ):
        yield (word for group in templates.values() for t in group for word in t.split() if word != "{}")
    yield (word for phrase in fact_templates.PREFIXES for word in phrase.split())
    yield fact_templates.FILLERS
    yield gender.SHARES
    for phrases in (gender.OCCUPATION_TEMPLATES, gender.NEW_OCCUPATION_TEMPLATES, gender.ENDINGS):
        yield (word for phrase in phrases for word in phrase.split() if word != "{}")
    yield SENTENCE_WORDS
    yield [*classes.SENTIMENTS, *classes.LOG_ODDS, *classes.NEUTRAL, *classes.NOUNS]
    for topic, things in classes.TOPICS.items():
        yield [topic, *things]
    yield labels.NONSENSE + labels.UNSEEN


WORDS: list[str] = list(dict.fromkeys(word for group in _groups() for word in group))
IDS: dict[str, int] = {word: i for i, word in enumerate(WORDS)}


def encode(text: str) -> list[int]:
    """Return token ids of a text, ``<bos>`` first: what the bundled tokenizer gives, without loading it.

    Raises:
        KeyError: If a word is not in the vocabulary.
    """
    return [IDS[BOS]] + [IDS[word] for word in text.split()]
