"""Run a study's shards in several processes of this machine, one model in each."""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.model.loading import load
from tl_neuron_attr.sweep.plan import Plan, open_plan
from tl_neuron_attr.sweep.run_shards import run_shard

_worker: dict[str, Any] = {}
"""What a worker process holds between shards: its plan and its model."""


@typechecked
def run_in_pool(model_name: str, out: str | Path, *, workers: int = 2, progress: bool = True) -> None:
    """Run what is not finished of a study, ``workers`` shards at a time, each worker with a model and some of the CPUs.

    A worker that dies takes its shard with it, and another one makes that shard. Each holds a whole model: choose
    ``workers`` by memory.

    Args:
        model_name: The model, as :func:`~tl_neuron_attr.load` takes it.
        out: The study's folder.
        workers: How many processes.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If ``workers`` is below 1, or the model is not the study's.
        RuntimeError: If workers die without finishing any shard, naming the shards.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    plan = open_plan(out)
    for stage in plan.task.stages:
        plan.known(stage)
        with tqdm(total=plan.shards, desc=stage, unit="shard", disable=not progress) as bar:
            while todo := plan.unfinished(stage):
                bar.update(plan.shards - len(todo) - bar.n)
                _run(model_name, out, stage, todo, workers, bar)
                if plan.unfinished(stage) == todo:
                    raise RuntimeError(
                        f"workers died on shards {todo[:5]} of {stage!r} and finished none: is memory short?"
                    )


def _run(model_name: str, out: str | Path, stage: str, todo: Sequence[int], workers: int, bar: "tqdm[Any]") -> None:
    """Run shards until all are finished or a worker dies."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(
        min(workers, len(todo)), get_context("spawn"), start_worker, (model_name, str(out), threads)
    ) as pool:
        try:
            for future in as_completed([pool.submit(_shard, stage, i) for i in todo]):
                future.result()
                bar.update()
        except BrokenProcessPool:
            bar.write(f"a worker died; the shards of {stage!r} that are not finished are run again")


def start_worker(model_name: str, out: str, threads: int) -> None:
    """Load the model of this process and see that it is the study's."""
    torch.set_num_threads(threads)
    plan, model = open_plan(out), load(model_name)
    plan.require_model(model)
    _worker.update(plan=plan, model=model)


def _shard(stage: str, i: int) -> None:
    plan: Plan = _worker["plan"]
    run_shard(plan, _worker["model"], i, stage=stage)
