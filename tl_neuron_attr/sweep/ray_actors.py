"""Run a study's shards on Ray: one model an actor, on this machine or a cluster; a row of the dataset is a shard."""

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.model.loading import load
from tl_neuron_attr.sweep.plan import open_plan
from tl_neuron_attr.sweep.run_shards import run_shard


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

    Finished shards are told by their files, not by Ray's own checkpoints, which save whole blocks: a study that is
    killed loses the shards in flight only. An actor that dies is started again. Starting Ray takes 10 to 25 seconds,
    and one actor is slower than :func:`~tl_neuron_attr.sweep.run_study`: it pays from two machines or GPUs on.

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
    """
    ray = _ray()
    plan = open_plan(out)
    before = ray.is_initialized()
    if not before:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        _require_room(ray, actors, cpus, gpus)
        for stage in plan.task.stages:
            plan.known(stage)
            if todo := plan.unfinished(stage):
                _map(ray, model_name, str(out), stage, todo, actors=min(actors, len(todo)), cpus=cpus, gpus=gpus)
    finally:
        if not before:
            ray.shutdown()


class ShardActor:
    """A model and what it does to a shard, in a process of its own."""

    def __init__(self, model_name: str, out: str, stage: str, cpus: float) -> None:
        torch.set_num_threads(max(1, int(cpus)))
        self._plan, self._model, self._stage = open_plan(out), load(model_name), stage
        self._plan.require_model(self._model)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make the files of some shards."""
        for i in batch["item"].tolist():
            run_shard(self._plan, self._model, int(i), stage=self._stage)
        return batch


def _map(
    ray: Any, model_name: str, out: str, stage: str, todo: list[int], *, actors: int, cpus: float, gpus: float
) -> None:
    shards = ray.data.from_items(todo, override_num_blocks=len(todo))
    done = shards.map_batches(
        ShardActor,
        fn_constructor_args=(model_name, out, stage, cpus),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    done.materialize()


def _require_room(ray: Any, actors: int, cpus: float, gpus: float) -> None:
    """Refuse actors that Ray could never place beside its own reading task: it would hang without a word."""
    if actors < 1 or cpus <= 0 or gpus < 0:
        raise ValueError(f"actors, cpus and gpus must be at least 1, above 0 and at least 0: {actors}, {cpus}, {gpus}")
    there = ray.cluster_resources()
    have = {"cpus": float(there.get("CPU", 0)), "gpus": float(there.get("GPU", 0))}
    if actors * cpus >= have["cpus"]:
        fitting = max(0.1, round(0.5 * have["cpus"] / actors, 2))
        raise ValueError(
            f"{actors} actors of {cpus:g} CPUs leave none of {have['cpus']:g} for Ray's own tasks, and would hang: "
            f"set cpus={fitting:g}, or fewer actors"
        )
    if actors * gpus > have["gpus"]:
        raise ValueError(f"{actors} actors of {gpus:g} GPUs want more than the {have['gpus']:g} there are: set fewer")


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        ray = import_module("ray")
        import_module("ray.data")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Ray is not installed: pip install 'tl_neuron_attr[ray]'") from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray
