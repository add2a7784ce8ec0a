"""The arithmetic set that adapters are trained on: numbers below a hundred, negative results too (paper 3, LoRA)."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.cna.arithmetic_cases import Case, Op, Problem, Written, arithmetic_cases

NEGATIVE = "negative"
"""The group of the cases whose result is below zero."""


def spaced(problem: Problem) -> tuple[str, str]:
    """Return a problem with the minus sign of its answer as a word of its own, as the bundled tokenizer writes it.

    Examples:
        >>> spaced(Problem(3, "-", 5))
        ('3 - 5 =', ' - 2')
    """
    sign = "- " if problem.result < 0 else ""
    return f"{problem.a} {problem.op} {problem.b} =", f" {sign}{abs(problem.result)}"


@typechecked
def arithmetic_set(
    model: Any,
    *,
    ops: Sequence[Op] = ("+", "-"),
    test: int = 2000,
    train: int | None = None,
    written: Written = spaced,
    seed: int = 0,
) -> tuple[list[Case], list[Case]]:
    """Return cases to train an adapter on, and cases of other problems to test it on (paper 3, LoRA).

    All problems ``a op b`` with numbers below a hundred; of quotients those that are whole. With the two default
    operations they are 20,000, the size of the paper's set. Where the result is negative, the case's group is
    ``"negative"``: the bundled model was never shown one.

    Args:
        model: The model, whose tokenizer cuts prompt and answer.
        ops: The operations.
        test: How many problems to test on.
        train: How many problems to train on; all others by default.
        written: How problems are written.
        seed: Of the draw.

    Raises:
        ValueError: If there are not so many problems, or an answer is not in the vocabulary.

    Examples:
        >>> from tl_neuron_attr import demo
        >>> train, test = arithmetic_set(demo.load(), test=20, train=10)
        >>> len(train) >= 10, {case.group for case in test} >= {"2D+", "negative"}
        (True, True)
    """
    possible = [
        Problem(a, op, b) for op in ops for a in range(100) for b in range(100) if op != "/" or (b and a % b == 0)
    ]
    others = len(possible) - test if train is None else train
    if test < 1 or others < 1 or test + others > len(possible):
        raise ValueError(f"train and test must be at least 1 and at most {len(possible)} together, got {train}, {test}")
    drawn = Random(f"problems {seed}").sample(possible, test + others)
    return _cases(model, drawn[test:], written), _cases(model, drawn[:test], written)


def _cases(model: Any, problems: Sequence[Problem], written: Written) -> list[Case]:
    groups: list[Case] = []
    for below in (False, True):
        chosen = arithmetic_cases(model, [p for p in problems if (p.result < 0) == below], written=written)
        groups += [replace(case, group=NEGATIVE) if below else case for case in chosen]
    return groups
