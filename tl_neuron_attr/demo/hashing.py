"""Choices that must never change: taken from SHA-256, not from a generator whose algorithm may."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal

Split = Literal["train", "tuning", "held_out"]


def fraction(*parts: object) -> float:
    """Return a number in [0, 1) fixed by ``parts``, uniform over different parts."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def pick(options: Sequence[str], *parts: object) -> str:
    """Return the option that ``parts`` fix."""
    return options[int(fraction(*parts) * len(options))]


def shuffled(items: Iterable[str], *parts: object) -> list[str]:
    """Return the items in an order fixed by ``parts``."""
    return sorted(items, key=lambda item: fraction(*parts, item))


def split_of(*parts: object, held_out: float, tuning: float) -> Split:
    """Return which split ``parts`` belong to: a share of ``held_out``, one of ``tuning``, the rest trained on."""
    at = fraction(*parts)
    if at < held_out:
        return "held_out"
    return "tuning" if at < held_out + tuning else "train"
