"""Choices that must never change: taken from SHA-256, not from a generator whose algorithm may."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal

Split = Literal["train", "tuning", "held_out"]


def fraction(*key: object) -> float:
    """Return a number in [0, 1) fixed by ``key``, uniform over different keys."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def one_of(options: Sequence[str], *key: object) -> str:
    """Return the option that ``key`` fixes."""
    return options[int(fraction(*key) * len(options))]


def shuffled(items: Iterable[str], *key: object) -> list[str]:
    """Return the items in an order fixed by ``key``."""
    return sorted(items, key=lambda item: fraction(*key, item))


def split_of(*key: object, held_out: float, tuning: float) -> Split:
    """Return which split ``key`` belongs to: a share of ``held_out``, one of ``tuning``, the rest trained on."""
    at = fraction(*key)
    if at < held_out:
        return "held_out"
    return "tuning" if at < held_out + tuning else "train"
