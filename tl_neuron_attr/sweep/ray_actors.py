"""Run a study's shards on Ray: actors on this machine or a cluster, one model in each, loaded once."""

import math
import os
from collections import deque
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.model.loading import load
from tl_neuron_attr.sweep.plan import Plan, open_plan
from tl_neuron_attr.sweep.run_shards import run_shard

_RETRIES = 3
"""Actors that may die on one shard beside the first: a machine may be lost, but not each time."""


@typechecked
def run_on_ray(
    model_name: str,
    out: str | Path,
    *,
    actors: int = 1,
    cpus: float = 1.0,
    gpus: float = 0.0,
    address: str | None = None,
) -> None:
    """Run what is not finished of a study on Ray actors.

    Finished shards are told by their files: a study that is killed loses the shards in flight only. An actor that dies
    is started again, and makes its shard anew. One actor is slower than :func:`~tl_neuron_attr.sweep.run_study`, as Ray
    has to start: it pays from two machines or GPUs on.

    Args:
        model_name: The model, as :func:`~tl_neuron_attr.load` takes it, on every machine.
        out: The study's folder: on disks that all machines share, or a URL that fsspec opens.
        actors: How many models run at once.
        cpus: CPUs of each actor.
        gpus: GPUs of each actor.
        address: A running cluster (``"auto"``, ``"ray://..."``); by default Ray is started here and ended afterwards.

    Raises:
        ModuleNotFoundError: If Ray is not installed.
        ValueError: If the actors want more CPUs or GPUs than there are, for they would wait for ever; or the model is
            not the study's.
        OSError: If a file can't be written, naming the shard.
        ray.exceptions.RayActorError: If an actor dies four times on one shard.
    """
    ray = _ray()
    plan = open_plan(out)
    before = ray.is_initialized()
    if not before:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        _require_room(ray, actors, cpus, gpus)
        kind = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=_RETRIES)(ShardActor)
        pool = ray.util.ActorPool([kind.remote(model_name, str(out), cpus) for _ in range(min(actors, plan.shards))])
        for stage in plan.task.stages:
            plan.known(stage)
            made = pool.map_unordered(_make, [(stage, i) for i in plan.unfinished(stage)])
            deque(made, maxlen=0)  # an error that an actor met is raised here
    finally:
        if not before:
            ray.shutdown()


class ShardActor:
    """A model and what it does to a shard, in a process of its own."""

    def __init__(self, model_name: str, out: str, cpus: float) -> None:
        torch.set_num_threads(max(1, int(cpus)))
        self._model_name, self._out = model_name, out

    def make(self, stage: str, i: int) -> None:
        """Make the file of one shard."""
        plan, model = self._study
        run_shard(plan, model, i, stage=stage)

    @cached_property
    def _study(self) -> tuple[Plan, Any]:
        """The plan and its model; read by the first shard, as what fails in a shard is raised where the study runs."""
        plan, model = open_plan(self._out), load(self._model_name)
        plan.require_model(model)
        return plan, model


def _make(actor: Any, asked: tuple[str, int]) -> Any:
    return actor.make.remote(*asked)


def _require_room(ray: Any, actors: int, cpus: float, gpus: float) -> None:
    """Refuse actors that Ray could never place: they would wait without a word."""
    if actors < 1 or cpus <= 0 or gpus < 0:
        raise ValueError(f"actors, cpus and gpus must be at least 1, above 0 and at least 0: {actors}, {cpus}, {gpus}")
    there = ray.cluster_resources()
    have = {"cpus": float(there.get("CPU", 0)), "gpus": float(there.get("GPU", 0))}
    if actors * cpus > have["cpus"]:
        fitting = math.floor(100 * have["cpus"] / actors) / 100
        raise ValueError(
            f"{actors} actors of {cpus:g} CPUs want more than the {have['cpus']:g} there are, and would wait for ever: "
            f"set cpus={fitting:g}, or fewer actors"
        )
    if actors * gpus > have["gpus"]:
        raise ValueError(f"{actors} actors of {gpus:g} GPUs want more than the {have['gpus']:g} there are: set fewer")


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        ray = import_module("ray")
        import_module("ray.util")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Ray is not installed: pip install 'tl_neuron_attr[ray]'") from error
    return ray
