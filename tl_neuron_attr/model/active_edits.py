"""Keep track of the kinds of change that are active on a model, so that none begins inside another of its kind."""

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
        ValueError: If one is active.
    """
    if kind in _OPEN.get(model, ()):
        raise ValueError(f"an {kind} of model is already active: leave its `with` block before beginning another")


@contextmanager
def open_on(model: Any, kind: Kind) -> Generator[None]:
    """Return a context manager; while open, no other change of this kind may begin.

    Raises:
        ValueError: If one is already active.
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
    """A change of a model's weights, undone by :meth:`undo` or at the end of a ``with`` block without further edits.

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
