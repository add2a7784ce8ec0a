"""Arithmetic of the demo world: ``"3 + 5 ="`` -> ``"8"``, every number one token.

Range: ``a + b`` and ``a - b >= 0`` for 0 <= a, b <= 99, ``a * b`` for 0 <= a, b <= 9.
"""

import operator
from collections.abc import Callable

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.demo.hashing import Split, fraction, split_of
from tl_neuron_attr.demo.world_prompts import Prompt

OPERATIONS: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}
LARGEST = 198
_HELD_OUT, _TUNING = 0.06, 0.02


@typechecked
def arithmetic(op: str | None = None, *, digits: int | None = None, split: Split = "train") -> list[Prompt]:
    """Return every problem of an operation (``+``, ``-``, ``*``; all by default) in a split.

    Args:
        op: The operation.
        digits: 1 for problems whose operands are both below 10, 2 for the others, both by default.
        split: ``train``, ``tuning`` (used to make choices) or ``held_out`` (used for the published table only).

    Raises:
        ValueError: If ``op`` or ``digits`` is none of the above.

    Examples:
        >>> [p.text for p in arithmetic("*", split="train")[:2]]
        ['0 * 0 =', '0 * 2 =']
    """
    if op is not None and op not in OPERATIONS:
        raise ValueError(f"op must be one of {', '.join(OPERATIONS)}, got {op!r}")
    if digits not in (None, 1, 2):
        raise ValueError(f"digits must be 1 or 2, got {digits!r}")
    return [
        problem(a, o, b)
        for o in ([op] if op else OPERATIONS)
        for a, b in _operands(o)
        if digits in (None, _digits(a, b)) and problem_split(a, o, b) == split
    ]


def problem(a: int, op: str, b: int) -> Prompt:
    """Return one problem with its answer."""
    return Prompt(f"{a} {op} {b} =", str(OPERATIONS[op](a, b)), kind=op)


def problem_split(a: int, op: str, b: int) -> Split:
    """Return the split of a problem. Of a product at most one of ``a * b`` and ``b * a`` is kept from training."""
    if op != "*":
        return split_of("arithmetic", a, op, b, held_out=_HELD_OUT, tuning=_TUNING)
    low, high = sorted((a, b))
    swapped = fraction("order", low, high) < 0.5
    if low == high or (a > b) != swapped:
        return "train"
    return split_of("arithmetic", low, op, high, held_out=0.25, tuning=0.1)


def _operands(op: str) -> list[tuple[int, int]]:
    size = 10 if op == "*" else 100
    return [(a, b) for a in range(size) for b in range(size) if op != "-" or a >= b]


def _digits(a: int, b: int) -> int:
    return 1 if max(a, b) < 10 else 2
