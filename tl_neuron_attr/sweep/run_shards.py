"""Run the shards of a study one after another: what is finished is skipped, what is written is whole."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.results.token_text import quoted
from tl_neuron_attr.sweep.plan import Plan, open_plan
from tl_neuron_attr.sweep.shard_task import Shard


@typechecked
def run_shard(plan: Plan, model: Any, i: int, *, stage: str | None = None, wait: bool = True) -> bool:
    """Make the file of one shard, whole or not at all, and return whether it is there.

    A finished shard is skipped. ``wait=False`` returns False where another process is at it.

    Args:
        plan: The study.
        model: The model it was planned for; :meth:`Plan.require_model` checks that.
        i: The shard.
        stage: The stage; the first by default.
        wait: Whether to wait for a process that makes the same shard.

    Raises:
        IndexError: If there is no such shard.
        FileNotFoundError: If the stage before is not finished, naming its shards.
        OSError: If the file can't be written, naming the shard.
    """
    stage = plan.task.stages[0] if stage is None else stage
    name, items = plan.part(stage, i), plan.shard(i)
    if plan.folder.has(name):
        return True
    known = plan.known(stage)
    with plan.folder.lock(f"{stage}-{i:05d}", wait=wait) as ours:
        if not ours or plan.folder.has(name):
            return ours
        rows = plan.task.rows(stage, model, Shard(items.set_index("item"), plan.before(stage, i)), known)
        try:
            plan.folder.write_frame(name, rows)
        except OSError as error:
            raise OSError(f"shard {i} of {stage!r} could not be written: {error}") from error
    return True


@typechecked
def run_study(
    plan: Plan,
    model: Any,
    *,
    shards: Sequence[int] | None = None,
    stages: Sequence[str] | None = None,
    progress: bool = True,
) -> None:
    """Run what is not finished of a study, in this process.

    Two processes may run one study: each takes the shards the other is not at.

    Args:
        plan: The study.
        model: The model it was planned for.
        shards: Some of its shards; all by default. Then only the first stage that is not finished is run.
        stages: Some of its stages; all by default.
        progress: Whether to show a progress bar, in items a second and with the time left.

    Raises:
        ValueError: If the model is not the study's, or a stage is unknown.
        FileNotFoundError: If a stage before is not finished, naming its shards.
        OSError: If a file can't be written, naming the shard.
    """
    plan.require_model(model)
    for stage in plan.task.stages if stages is None else stages:
        if stage not in plan.task.stages:
            raise ValueError(f"stages must be of {list(plan.task.stages)}, got {quoted(stage)}")
        todo = [
            i for i in (range(plan.shards) if shards is None else shards) if not plan.folder.has(plan.part(stage, i))
        ]
        with tqdm(
            total=sum(len(plan.numbers(i)) for i in todo), desc=stage, unit="item", disable=not progress, delay=2
        ) as bar:
            busy = [i for i in todo if not _timed(plan, model, i, stage, bar, wait=False)]
            for i in busy:
                _timed(plan, model, i, stage, bar, wait=True)


def _timed(plan: Plan, model: Any, i: int, stage: str, bar: "tqdm[Any]", *, wait: bool) -> bool:
    done = run_shard(plan, model, i, stage=stage, wait=wait)
    bar.update(len(plan.numbers(i)) if done else 0)
    return done


@typechecked
def merge_study(out: str | Path) -> dict[str, pd.DataFrame]:
    """Reduce a finished study to its tables, a shard in memory at a time, and keep them in ``out/tables``.

    The same study gives the same bytes, however its shards were run.

    Raises:
        FileNotFoundError: If a shard is not finished, naming it.
        ValueError: If a shard's file is damaged, naming it.
    """
    plan = open_plan(out)
    found = plan.task.tables(plan.frames)
    for name, frame in found.items():
        plan.folder.write_frame(f"tables/{name}.parquet", frame)
    return found


@typechecked
def repair_study(out: str | Path) -> list[str]:
    """Remove the files of shards that can't be read, and return their names: the next run makes them anew."""
    plan = open_plan(out)
    damaged = [name for stage in plan.task.stages for name in _damaged(plan, stage, range(plan.shards))]
    for name in damaged:
        plan.folder.remove(name)
    return damaged


def _damaged(plan: Plan, stage: str, shards: Iterable[int]) -> list[str]:
    found: list[str] = []
    for name in (plan.part(stage, i) for i in shards):
        try:
            _ = plan.folder.read_frame(name) if plan.folder.has(name) else None
        except ValueError:
            found.append(name)
    return found
