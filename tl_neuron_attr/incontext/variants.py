"""Variants of prompt sets: labels reversed, balanced, one demonstration removed, reordered, with other queries.

Every variant is tokenised again from its texts, so it is exactly what the model would see.
"""

from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import Any

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.incontext.icl_prompt import IclPrompt, rebuilt


@typechecked
def reversed_labels(model: Any, prompts: Sequence[IclPrompt]) -> list[IclPrompt]:
    """Return the prompts with each label replaced by the next one, and the last by the first; two labels are exchanged.

    The right answer changes with them (paper 2, the two prompts of the attention-shift experiment; second-hand).

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompts = tna.incontext.from_demo(model, tna.demo.in_context(1, 2, order=(0, 1), gold=1))
        >>> reversed_labels(model, prompts)[0].sequence, reversed_labels(model, prompts)[0].gold
        ((1, 0), 0)
    """

    def relabelled(prompt: IclPrompt) -> IclPrompt:
        n = len(prompt.labels)
        moved = [(text, (label + 1) % n) for text, label in prompt.demonstrations]
        classes = prompt.classes[-1:] + prompt.classes[:-1]
        return rebuilt(model, prompt, moved, gold=(prompt.gold + 1) % n, classes=classes)

    return [relabelled(prompt) for prompt in prompts]


@typechecked
def balanced(model: Any, prompts: Sequence[IclPrompt]) -> list[IclPrompt]:
    """Return the prompts with every label cut to the number of demonstrations of the rarest, the last ones left out.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompts = tna.incontext.from_demo(model, tna.demo.in_context(1, 3, order=(0, 0, 1)))
        >>> balanced(model, prompts)[0].counts
        (1, 1)
    """

    def evened(prompt: IclPrompt) -> IclPrompt:
        least = min(count for count in prompt.counts if count)
        seen = [0] * len(prompt.labels)
        kept: list[tuple[str, int]] = []
        for text, label in prompt.demonstrations:
            seen[label] += 1
            if seen[label] <= least:
                kept.append((text, label))
        return rebuilt(model, prompt, kept)

    return [evened(prompt) for prompt in prompts]


@typechecked
def one_removed(model: Any, prompts: Sequence[IclPrompt]) -> list[list[IclPrompt]]:
    """Return for each prompt its variants without the first demonstration, without the second, and so on.

    Raises:
        ValueError: If a label would be left without a demonstration.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompts = tna.incontext.from_demo(model, tna.demo.in_context(1, 4, order=(0, 0, 1, 1)))
        >>> [variant.counts for variant in one_removed(model, prompts)[0]]
        [(1, 2), (1, 2), (2, 1), (2, 1)]
    """

    def without(prompt: IclPrompt, i: int) -> IclPrompt:
        if prompt.counts[prompt.sequence[i]] < 2:
            raise ValueError(
                f"demonstration {i} is the only one of the label {prompt.labels[prompt.sequence[i]]!r}: give at least "
                "two demonstrations of every label"
            )
        return rebuilt(model, prompt, prompt.demonstrations[:i] + prompt.demonstrations[i + 1 :])

    return [[without(prompt, i) for i in range(len(prompt.demonstrations))] for prompt in prompts]


@typechecked
def reordered(model: Any, prompts: Sequence[IclPrompt], order: Sequence[int]) -> list[IclPrompt]:
    """Return the prompts with demonstrations in another order: the ``i``-th was number ``order[i]`` before.

    Raises:
        ValueError: If ``order`` is not a permutation of a prompt's demonstrations.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompts = tna.incontext.from_demo(model, tna.demo.in_context(1, 2, order=(0, 1)))
        >>> reordered(model, prompts, [1, 0])[0].sequence
        (1, 0)
    """

    def moved(prompt: IclPrompt) -> IclPrompt:
        if sorted(order) != list(range(len(prompt.demonstrations))):
            raise ValueError(
                f"order must be a permutation of the {len(prompt.demonstrations)} demonstrations, got {list(order)}"
            )
        return rebuilt(model, prompt, [prompt.demonstrations[i] for i in order])

    return [moved(prompt) for prompt in prompts]


@typechecked
def arranged(model: Any, prompts: Sequence[IclPrompt], sequence: Sequence[int]) -> list[IclPrompt]:
    """Return the prompts with demonstrations reordered so that their labels are ``sequence``, label by label in order.

    Raises:
        ValueError: If ``sequence`` does not have the labels of a prompt's demonstrations.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompts = tna.incontext.from_demo(model, tna.demo.in_context(5, 4))
        >>> {prompt.sequence for prompt in arranged(model, prompts, [0, 1, 1, 0])}
        {(0, 1, 1, 0)}
    """

    def moved(prompt: IclPrompt) -> IclPrompt:
        if sorted(sequence) != sorted(prompt.sequence):
            raise ValueError(
                f"sequence must have the labels of the demonstrations, {sorted(prompt.sequence)}, got {list(sequence)}"
            )
        of_label = {label: _of(prompt, label) for label in set(sequence)}
        return rebuilt(model, prompt, [next(of_label[label]) for label in sequence])

    return [moved(prompt) for prompt in prompts]


@typechecked
def with_query(model: Any, prompt: IclPrompt, queries: Sequence[tuple[str, int]]) -> list[IclPrompt]:
    """Return one prompt with other queries, given as pairs of a text and the index of its right label.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompt = tna.incontext.from_demo(model, tna.demo.in_context(1, 2))[0]
        >>> [p.query for p in with_query(model, prompt, [("great song", 0), ("bad plot", 1)])]
        ['great song', 'bad plot']
    """
    return [rebuilt(model, prompt, prompt.demonstrations, query=text, gold=gold) for text, gold in queries]


def label_sequences(sequence: Sequence[int]) -> list[tuple[int, ...]]:
    """Return every different order of a prompt's labels, sorted."""
    return sorted(set(permutations(sequence)))


def _of(prompt: IclPrompt, label: int) -> Iterator[tuple[str, int]]:
    return (pair for pair in prompt.demonstrations if pair[1] == label)
