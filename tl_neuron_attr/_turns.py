"""Threads that share a model take turns: it is hooked while it runs, and another run would be changed too."""

from collections.abc import Generator
from contextlib import contextmanager
from threading import Lock, RLock
from typing import Any
from weakref import WeakKeyDictionary

_TURNS: WeakKeyDictionary[Any, RLock] = WeakKeyDictionary()
_NEW_TURN = Lock()


@contextmanager
def turn_on(model: Any) -> Generator[None]:
    """Wait until no other thread has its turn on ``model``; the thread that has it may take it again."""
    with _NEW_TURN:
        turn = _TURNS.setdefault(model, RLock())
    with turn:
        yield
