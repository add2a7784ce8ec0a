"""Whether two results hold the same data."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from torch import Tensor


def same(a: Any, b: Any) -> bool:
    """Return whether two values are equal all the way down: tensors, arrays, frames, graphs, and what holds them.

    Tensors are equal if shape, dtype and values are, on whatever device; what was not measured is NaN, and NaN is NaN.

    Examples:
        >>> import torch
        >>> same({"score": torch.ones(2)}, {"score": torch.ones(2)}), same([torch.ones(2)], [torch.zeros(2)])
        (True, False)
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        a, b = a.cpu(), b.cpu()
        return a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc" and b.dtype.kind in "fc"))
    if type(a) is not type(b):
        return False
    kind: Any = a  # told by what it can do: importing pandas and networkx would slow every import of a result down
    if hasattr(kind, "equals"):
        return bool(kind.equals(b))
    if hasattr(kind, "adj"):
        return kind.adj == b.adj and dict(kind.nodes(data=True)) == dict(b.nodes(data=True))
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    if isinstance(a, Sequence) and not isinstance(a, str | bytes):
        return len(a) == len(b) and all(same(*pair) for pair in zip(a, b, strict=True))
    return bool(a == b) or bool(a != a and b != b)


class EqualByData:
    """A base for dataclasses with ``eq=False``: ``==`` compares what they hold, as :func:`same` does."""

    def __eq__(self, other: object) -> bool:
        return same_fields(self, other) if type(self) is type(other) else NotImplemented


def same_fields(a: Any, b: Any) -> bool:
    """Return whether two objects of one dataclass hold the same data in every field."""
    return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a) if f.compare)
