"""In-context classification prompts with labels that mean nothing: ``"great movie : foo . awful plot : bar . ..."``."""

from collections.abc import Sequence
from random import Random
from typing import Literal

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.demo.classes import SENTIMENTS, TOPICS
from tl_neuron_attr.demo.hashing import Split
from tl_neuron_attr.demo.items import FORMATS, class_item, neutral_item
from tl_neuron_attr.demo.world_prompts import InContextPrompt
from tl_neuron_attr.demo.world_vocabulary import IDS

Query = Literal["ordinary", "strong", "weak", "neutral", "empty"]
Task = Literal["sentiment", "topic"]


@typechecked
def in_context(
    n: int,
    k: int,
    *,
    labels: tuple[str, str] = ("foo", "bar"),
    counts: tuple[int, int] | None = None,
    order: Sequence[int] | None = None,
    query: Query = "ordinary",
    gold: int | None = None,
    task: Task = "sentiment",
    form: int = 0,
    split: Split = "held_out",
    seed: int = 0,
) -> list[InContextPrompt]:
    """Return ``n`` prompts of ``k`` demonstrations and a query each.

    Which class a label stands for is drawn anew for every prompt, so a label's meaning is in the prompt only.

    Args:
        n: How many prompts.
        k: How many demonstrations.
        labels: The two label words; ``counts``, ``order`` and ``gold`` refer to them by index.
        counts: How many demonstrations each label has; ``k // 2`` of the first and the rest by default.
        order: The label of each demonstration; a random order of ``counts`` by default.
        query: ``ordinary`` items are drawn like the demonstrations, ``strong`` and ``weak`` ones from the reliable or
            hardly reliable adjectives; ``neutral`` ones have no class and ``empty`` is ``N/A``.
        gold: The label of the query; random by default.
        task: Positive against negative items, or two random topics (animals, tools, ...).
        form: 0 ``great movie``, 1 ``the movie was great``, 2 ``a very great movie``, 3 ``great``.
        split: Which (adjective, noun) pairs a sentiment query is drawn from; demonstrations are drawn from ``train``.
        seed: The same seed gives the same prompts.

    Raises:
        ValueError: If ``counts`` or ``order`` do not add up to ``k``, or an index or word is out of range.

    Examples:
        >>> prompt = in_context(1, 2, order=(0, 1), gold=1)[0]
        >>> prompt.sequence, prompt.answer, [prompt.text.split()[i - 1] for i in prompt.label_positions]
        ((0, 1), 'bar', ['foo', 'bar'])
    """
    _check(k, counts, order, gold)
    _check_words(labels, form)
    rng = Random(f"in context {seed}")
    return [_prompt(rng, _sequence(rng, k, counts, order), labels, query, gold, task, form, split) for _ in range(n)]


def _sequence(rng: Random, k: int, counts: tuple[int, int] | None, order: Sequence[int] | None) -> tuple[int, ...]:
    if order is not None:
        return tuple(order)
    first, second = counts or (k // 2, k - k // 2)
    sequence = [0] * first + [1] * second
    rng.shuffle(sequence)
    return tuple(sequence)


def _prompt(
    rng: Random,
    sequence: tuple[int, ...],
    labels: tuple[str, str],
    query: Query,
    gold: int | None,
    task: Task,
    form: int,
    split: Split,
) -> InContextPrompt:
    first, second = rng.sample(SENTIMENTS if task == "sentiment" else list(TOPICS), 2)
    classes = (first, second)
    words: list[str] = []
    label_positions: list[int] = []
    separator_positions: list[int] = []
    for label in sequence:
        words += [*class_item(rng, classes[label], form=form), ":", labels[label], "."]
        label_positions.append(len(words) - 1)
        separator_positions.append(len(words) - 2)
    answer = rng.randrange(2) if gold is None else gold
    item = _query(rng, classes[answer], query, form, split, set(words))
    words += [*item, ":"]
    separator_positions.append(len(words))
    return InContextPrompt(
        text=" ".join(words),
        answer=labels[max(_gold(query, answer), 0)],
        kind="in_context",
        labels=labels,
        classes=classes,
        sequence=sequence,
        gold=_gold(query, answer),
        label_positions=tuple(label_positions),
        separator_positions=tuple(separator_positions),
        query=" ".join(item),
    )


def _gold(query: Query, answer: int) -> int:
    return -1 if query in ("neutral", "empty") else answer


def _query(rng: Random, name: str, query: Query, form: int, split: Split, used: set[str]) -> list[str]:
    """Return a query whose adjective or thing stands in no demonstration."""
    if query == "empty":
        return ["N/A"]
    if query == "neutral":
        while (item := neutral_item(rng, form=form)) == ["N/A"]:
            pass
        return item
    telling = {0: 0, 1: 3, 2: 2, 3: 0} if name in SENTIMENTS else {0: 1, 1: 3, 2: 2, 3: 0}
    while (item := class_item(rng, name, pool=query, form=form, split=split))[telling[form]] in used:
        pass
    return item


def _check(k: int, counts: tuple[int, int] | None, order: Sequence[int] | None, gold: int | None) -> None:
    if counts is not None and (sum(counts) != k or min(counts) < 0):
        raise ValueError(f"counts must be two numbers that add up to k = {k}, got {counts}")
    if order is not None and (len(order) != k or not set(order) <= {0, 1}):
        raise ValueError(f"order must be k = {k} label indices, 0 or 1, got {tuple(order)}")
    if gold not in (None, 0, 1):
        raise ValueError(f"gold must be 0 or 1, the index of a label, got {gold!r}")


def _check_words(labels: tuple[str, str], form: int) -> None:
    unknown = [word for word in labels if word not in IDS]
    if unknown or len(set(labels)) != 2:
        raise ValueError(f"labels must be two different words of the demo vocabulary, got {labels}")
    if form not in range(FORMATS):
        raise ValueError(f"form must be 0, 1, 2 or 3, got {form!r}")
