"""What a study does to its items: the contract between what is measured and what runs it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from tl_neuron_attr._typechecked import typechecked_fields

Frames = Callable[[str], Iterator[pd.DataFrame]]
"""The rows of a stage, shard by shard."""


@typechecked_fields
@dataclass(frozen=True)
class Items:
    """What a study is about, before a model has read it.

    Attributes:
        fingerprint: A hash of what was given. A job that finds it in a study's folder reads nothing with the model.
        read: Returns one row per item, as the study's task wants them, from a model.
    """

    fingerprint: str
    read: Callable[[Any], pd.DataFrame]


@dataclass(frozen=True)
class Shard:
    """Some of a study's items.

    Attributes:
        items: One row each; the index is the item's number in the study.
        before: Their rows of the stage before, if there is one.
    """

    items: pd.DataFrame
    before: pd.DataFrame | None


@runtime_checkable
class ShardTask(Protocol):
    """Something measured on every item of a study, in one stage or several.

    A stage turns the items of a shard into rows. What it must know of all items is reduced beforehand from the rows of
    the stage before, or from the items themselves, a shard at a time.
    """

    @property
    def name(self) -> str:
        """The task's name in a study's folder."""
        ...

    @property
    def stages(self) -> tuple[str, ...]:
        """Its stages, in order."""
        ...

    def described(self) -> dict[str, Any]:
        """Return the task's parameters, as JSON holds them: part of what makes two runs the same study."""
        ...

    def prepared(self, stage: str, shards: Iterable[pd.DataFrame]) -> dict[str, Any]:
        """Return what ``stage`` must know of all items, as JSON holds it."""
        ...

    def rows(self, stage: str, model: Any, shard: Shard, known: Mapping[str, Any]) -> pd.DataFrame:
        """Return the rows of a shard; ``known`` is what :meth:`prepared` returned."""
        ...

    def tables(self, frames: Frames) -> dict[str, pd.DataFrame]:
        """Return what the study found, by name, in memory that does not grow with the number of items."""
        ...
