"""A study cut into shards: what it measures, on which model, and where its files lie."""

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.model.fingerprint import model_fingerprint, require_no_hooks, tokenizer_fingerprint
from tl_neuron_attr.sweep.catalogue_task import CatalogueTask
from tl_neuron_attr.sweep.faithfulness_task import FaithfulnessTask
from tl_neuron_attr.sweep.folder import Folder
from tl_neuron_attr.sweep.head_effects_task import HeadEffectsTask
from tl_neuron_attr.sweep.icl_biases_task import IclBiasesTask
from tl_neuron_attr.sweep.knowledge_task import KnowledgeTask
from tl_neuron_attr.sweep.shard_task import Items, ShardTask

_TASKS = {task.name: task for task in (KnowledgeTask, FaithfulnessTask, HeadEffectsTask, IclBiasesTask, CatalogueTask)}
_ITEMS_A_SHARD = 256
"""Some minutes of work on a small model: what a killed run loses at most, and few files even for 10^6 items."""
_REMEDY = "choose another folder, or remove it"


@dataclass(frozen=True)
class Plan:
    """A study that was written down: its folder holds the items, and every shard that is finished.

    Attributes:
        folder: Where its files lie.
        task: What is measured.
        manifest: What makes two runs the same study: model, tokenizer, items, task, number of shards, version.
    """

    folder: Folder
    task: ShardTask
    manifest: Mapping[str, Any]

    @property
    def shards(self) -> int:
        """Into how many shards the items are cut."""
        return int(self.manifest["shards"])

    @property
    def items(self) -> pd.DataFrame:
        """All items, one row each; column ``item`` numbers them.

        Raises:
            ValueError: If their file was changed since the study was planned.
        """
        return self._table.to_pandas()

    @cached_property
    def _table(self) -> Any:
        """All items as Arrow holds them: a tenth of what they take as Python's objects."""
        data = self.folder.read("items.parquet")
        if _hash_of(data) != self.manifest["written"]:
            raise ValueError(f"{self.folder.path('items.parquet')} was changed since the study was planned: {_REMEDY}")
        return pq.read_table(io.BytesIO(data))

    def shard(self, i: int) -> pd.DataFrame:
        """Return the items of one shard: shards differ in size by one item at most.

        Raises:
            IndexError: If there is no such shard.
        """
        at = self.numbers(i)
        return self._table.slice(at.start, len(at)).to_pandas()

    def numbers(self, i: int) -> range:
        """Return the numbers of a shard's items.

        Raises:
            IndexError: If there is no such shard.
        """
        if not 0 <= i < self.shards:
            raise IndexError(f"shard must lie between 0 and {self.shards - 1}, got {i}")
        n = self._table.num_rows
        return range(i * n // self.shards, (i + 1) * n // self.shards)

    def part(self, stage: str, i: int) -> str:
        """Return the name of a shard's file."""
        return f"{stage}/part-{i:05d}.parquet"

    def unfinished(self, stage: str) -> list[int]:
        """Return the shards of a stage whose files are not there."""
        return [i for i in range(self.shards) if not self.folder.has(self.part(stage, i))]

    def frames(self, stage: str) -> Iterator[pd.DataFrame]:
        """Yield the rows of every shard of a stage, in order, one shard in memory at a time; ``"items"`` is the items.

        Raises:
            FileNotFoundError: Naming the shards that are not finished.
            ValueError: If a shard's file is damaged, naming the shard.
        """
        if stage == "items":
            yield self.items
            return
        if missing := self.unfinished(stage):
            some = ", ".join(map(str, missing[:5])) + (" and more" if len(missing) > 5 else "")
            raise FileNotFoundError(f"{self.folder.root}: shards {some} of {stage!r} are not finished: run them first")
        for i in range(self.shards):
            try:
                yield self.folder.read_frame(self.part(stage, i))
            except ValueError as error:
                raise ValueError(f"shard {i} of {stage!r} can't be read: {error}; run it again with repair") from error

    def before(self, stage: str, i: int) -> pd.DataFrame | None:
        """Return a shard's rows of the stage before, or None for the first stage.

        Raises:
            FileNotFoundError: If they are not there.
        """
        at = self.task.stages.index(stage)
        return self.folder.read_frame(self.part(self.task.stages[at - 1], i)) if at else None

    def known(self, stage: str) -> Mapping[str, Any]:
        """Return what a stage must know of all items, reduced once and kept.

        Raises:
            FileNotFoundError: If the stage before is not finished, naming its shards.
        """
        at, name = self.task.stages.index(stage), f"{stage}/known.json"
        with self.folder.lock(f"{stage}-known", wait=True):
            if not self.folder.has(name):
                of = self.frames(self.task.stages[at - 1]) if at else iter([self.items])
                self.folder.write_json(name, self.task.prepared(stage, of))
        return self.folder.read_json(name)

    def require_model(self, model: Any) -> None:
        """Refuse a model that the study was not planned for: every weight counts.

        Raises:
            ValueError: If the model or its tokenizer is another, or hooks are active on it.
        """
        require_no_hooks(model)
        found = _identity(model)
        if different := [name for name, value in found.items() if self.manifest.get(name) != value]:
            raise ValueError(f"{self.folder.root} holds a study of another {' and '.join(different)}: {_REMEDY}")


@typechecked
def plan_study(model: Any, items: Items, *, task: ShardTask, out: str | Path, shards: int | None = None) -> Plan:
    """Write down a study in ``out``, or open the same study there.

    Prompts and texts are tokenised once, by whoever writes the study down.

    Args:
        model: The model; all of its weights and its tokenizer are part of the study.
        items: What is studied: :func:`prompt_items` or :func:`corpus_items`.
        task: What is measured: one of the tasks of this package.
        out: A folder, or a URL that fsspec opens.
        shards: Into how many the items are cut; by default as many as the study there has, else one per 256 items.

    Raises:
        ValueError: If there is no item, ``shards`` is not between 1 and their number, ``out`` holds another study,
            naming what differs, or hooks are active on the model.
        OSError: If ``out`` can't be written.
    """
    require_no_hooks(model)
    wanted = {
        **_identity(model),
        "items": items.fingerprint,
        "task": task.name,
        "parameters": task.described(),
        "version": version("tl_neuron_attr"),
    }
    folder = Folder.at(out)
    with folder.lock("plan", wait=True):
        if folder.has("study.json"):
            _require_same(folder, wanted if shards is None else {**wanted, "shards": shards})
        else:
            _write_down(folder, items.read(model), wanted, shards)
    return open_plan(out)


@typechecked
def open_plan(out: str | Path) -> Plan:
    """Open a study that was planned before.

    Raises:
        FileNotFoundError: If ``out`` holds none.
        ValueError: If it is damaged, or of another release.
    """
    folder = Folder.at(out)
    if not folder.has("study.json"):
        raise FileNotFoundError(f"{folder.root} holds no study: study.json is missing")
    manifest = folder.read_json("study.json")
    try:
        task = _TASKS[manifest["task"]].read(manifest["parameters"])
        complete = {"shards", "items", "written", "model", "tokenizer", "version"} <= manifest.keys()
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder.path('study.json')} is damaged ({error!r}): {_REMEDY}") from error
    if not complete or manifest["version"] != version("tl_neuron_attr"):
        raise ValueError(
            f"{folder.root} holds a study of release {manifest.get('version')}, this is "
            f"{version('tl_neuron_attr')}: {_REMEDY}"
        )
    return Plan(folder, task, manifest)


def _identity(model: Any) -> dict[str, str]:
    return {"model": model_fingerprint(model), "tokenizer": tokenizer_fingerprint(model)}


def _write_down(folder: Folder, items: pd.DataFrame, wanted: Mapping[str, Any], shards: int | None) -> None:
    if items.empty:
        raise ValueError("items is empty: give at least one")
    shards = -(-len(items) // _ITEMS_A_SHARD) if shards is None else shards
    if not 1 <= shards <= len(items):
        raise ValueError(f"shards must be between 1 and the {len(items)} items, got {shards}")
    folder.write_frame("items.parquet", items.reset_index(drop=True).rename_axis("item").reset_index())
    written = _hash_of(folder.read("items.parquet"))
    folder.write_json("study.json", {**wanted, "shards": shards, "written": written})


def _hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _require_same(folder: Folder, wanted: Mapping[str, Any]) -> None:
    before = folder.read_json("study.json")
    if different := [name for name, value in wanted.items() if before.get(name) != value]:
        named = "; ".join(f"{name} is {before.get(name)!r:.60}, not {wanted[name]!r:.60}" for name in different)
        raise ValueError(f"{folder.root} holds another study ({named}): {_REMEDY}")
