"""Which kinds of change are open on a model, so that no change begins inside another of its kind."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar
from weakref import WeakKeyDictionary

Kind = Literal["edit", "adapter"]

C = TypeVar("C", bound="Change")

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


@dataclass
class Change:
    """A change of a model's weights. Ends with :meth:`undo`, or as a context manager, in which no edit may begin.

    Attributes:
        model: What was changed.
    """

    model: Any
    _open: ExitStack = field(default_factory=ExitStack, repr=False, kw_only=True)

    def undo(self) -> None:
        """Put everything back as it was."""
        raise NotImplementedError

    def __enter__(self: C) -> C:
        self._open.enter_context(open_on(self.model, "edit"))
        return self

    def __exit__(self, *error: object) -> None:
        with self._open:
            self.undo()
