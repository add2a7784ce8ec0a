"""Which kinds of change are open on a model, so that no change begins inside another of its kind."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Literal
from weakref import WeakKeyDictionary

Kind = Literal["edit", "adapter"]

_OPEN: WeakKeyDictionary[Any, set[Kind]] = WeakKeyDictionary()


def require_none(model: Any, kind: Kind) -> None:
    """Refuse to begin a change inside another of its kind.

    Raises:
        ValueError: If one is open.
    """
    if kind in _OPEN.get(model, ()):
        raise ValueError(f"an {kind} of model is already active: leave its `with` block before beginning another")


@contextmanager
def open_on(model: Any, kind: Kind) -> Generator[None]:
    """While open, no other change of this kind may begin.

    Raises:
        ValueError: If one is open already.
    """
    require_none(model, kind)
    kinds = _OPEN.setdefault(model, set())
    kinds.add(kind)
    try:
        yield
    finally:
        kinds.discard(kind)
