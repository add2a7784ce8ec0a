"""Run a study's shards in several processes of this machine, one model in each, loaded once."""

import os
import pickle
import signal
import sys
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from tqdm import tqdm

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.model.loading import load
from tl_neuron_attr.sweep.plan import open_plan
from tl_neuron_attr.sweep.run_shards import run_shard

_TRIES = 3
"""Workers that may die on one shard: memory may be short once, but not each time."""


@typechecked
def run_in_pool(model_name: str, out: str | Path, *, workers: int = 2, progress: bool = True) -> None:
    """Run what is not finished of a study, ``workers`` shards at a time, each worker with a model and some of the CPUs.

    A worker that dies takes its shard with it, and another one, started in its place, makes that shard. Each holds a
    whole model, from the first stage to the last: choose ``workers`` by memory.

    Args:
        model_name: The model, as :func:`~tl_neuron_attr.load` takes it.
        out: The study's folder.
        workers: How many processes.
        progress: Whether to show a progress bar, in items a second and with the time left.

    Raises:
        ValueError: If ``workers`` is below 1, or the model is not the study's.
        RuntimeError: If three workers die on one shard, naming it.
        OSError: If a file can't be written, naming the shard.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    plan = open_plan(out)
    with _Pool(model_name, str(out), workers) as pool:
        for stage in plan.task.stages:
            plan.known(stage)
            todo = plan.unfinished(stage)
            sizes = {i: len(plan.numbers(i)) for i in todo}
            with tqdm(total=sum(sizes.values()), desc=stage, unit="item", disable=not progress) as bar:
                pool.run(stage, todo, sizes, bar)


@dataclass
class _Worker:
    """A process, the wire to it, and the shard it is at."""

    process: BaseProcess
    wire: Connection
    shard: int | None = None


class _Pool:
    """Workers that outlive a stage, each started when there is a shard for it."""

    def __init__(self, model_name: str, out: str, most: int) -> None:
        threads = max(1, (os.cpu_count() or 1) // most)
        self._given, self._most = (model_name, out, threads), most
        self._workers: list[_Worker] = []

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for worker in self._workers:
            worker.wire.close()  # an idle worker ends by itself
            if kind is not None:
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join()

    def run(self, stage: str, todo: Sequence[int], sizes: dict[int, int], bar: "tqdm[Any]") -> None:
        """Return once every shard is finished; an error that a worker met is raised here."""
        queue, deaths = deque(todo), Counter[int]()
        while queue or any(worker.shard is not None for worker in self._workers):
            self._hand_out(stage, queue)
            busy = [worker for worker in self._workers if worker.shard is not None]
            ready = wait([worker.wire for worker in busy])
            for worker in (worker for worker in busy if worker.wire in ready):
                shard, failed = _answer(worker)
                if failed is None:
                    bar.update(sizes[shard])
                    continue
                self._workers.remove(worker)
                deaths[shard] += 1
                if deaths[shard] == _TRIES:
                    raise RuntimeError(
                        f"{_TRIES} workers died on shard {shard} of {stage!r} ({failed}): is memory short?"
                    )
                bar.write(f"a worker died on shard {shard} of {stage!r} ({failed}), which is run again")
                queue.appendleft(shard)

    def _hand_out(self, stage: str, queue: deque[int]) -> None:
        """Give every idle worker a shard, and start workers while there are shards left."""
        for worker in self._workers:
            if worker.shard is None and queue:
                _send(worker, stage, queue.popleft())
        while queue and len(self._workers) < self._most:
            self._workers.append(self._start())
            _send(self._workers[-1], stage, queue.popleft())

    def _start(self) -> _Worker:
        context = get_context("spawn")  # a fork of a process in which torch has threads may hang
        ours, theirs = context.Pipe()
        process = context.Process(target=serve_shards, args=(theirs, *self._given), daemon=True)
        process.start()
        theirs.close()  # else the wire would not end with the process
        return _Worker(process, ours)


def _send(worker: _Worker, stage: str, shard: int) -> None:
    worker.shard = shard
    try:
        worker.wire.send((stage, shard))
    except OSError:  # it died while it was idle: what it answers is the end of the wire
        return


def _answer(worker: _Worker) -> tuple[int, str | None]:
    """Return the shard a worker was at, and how it died if it did.

    Raises:
        Exception: What the worker met.
    """
    shard, worker.shard = worker.shard, None
    assert shard is not None  # only busy workers are waited for
    try:
        error = worker.wire.recv()
    except (EOFError, OSError):
        worker.process.join()
        return shard, _death(worker.process.exitcode)
    if error is not None:
        raise error
    return shard, None


def _death(code: int | None) -> str:
    """Return how a process ended.

    >>> _death(-9), _death(1)
    ('SIGKILL', 'exit code 1')
    """
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def serve_shards(wire: Connection, model_name: str, out: str, threads: int) -> None:
    """Make shards as they are asked for until the wire ends, with one model; answer None, or the error that was met."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the process that asks, which ends this one
    signal.signal(signal.SIGTERM, _end)
    torch.set_num_threads(threads)
    model, plan = None, None
    while True:
        try:
            stage, shard = wire.recv()
        except EOFError:
            return
        try:
            if model is None or plan is None:
                plan, model = open_plan(out), load(model_name)
                plan.require_model(model)
            run_shard(plan, model, shard, stage=stage)
            wire.send(None)
        except Exception as error:
            wire.send(_sendable(error))
            return


def _end(number: int, frame: object) -> None:
    """Raise SystemExit, so that what was half written is removed."""
    sys.exit(1)


def _sendable(error: Exception) -> Exception:
    """Return an error that another process can read: some can't be pickled."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
