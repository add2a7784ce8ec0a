"""A study in shards, from the shell: run some or all of them, merge them, mend what is damaged."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tl_neuron_attr.cli.options import count_option, option
from tl_neuron_attr.cli.output import note, show, write_page

if TYPE_CHECKING:
    from tl_neuron_attr.sweep import Items
    from tl_neuron_attr.sweep.shard_task import ShardTask

RUNNERS = ("loop", "pool", "ray")


def shard_options(default: str) -> list[click.Parameter]:
    """Return the options that cut a study into shards and say what runs them; ``default`` is what it is without."""
    return [
        count_option("--shards", show_default=default, help="cut the study into so many shards"),
        count_option("--shard", least=0, show_default="all", help="run this shard only: one job of an array"),
        option("--runner", type=click.Choice(RUNNERS), default="loop", help="what runs the shards"),
        count_option("--workers", default=2, help="models at once, of a pool or on Ray"),
        option("--cpus", type=float, default=0.5, help="CPUs of each actor on Ray"),
        option("--gpus", type=float, default=0.0, help="GPUs of each actor on Ray"),
        count_option("--batch-size", default=16, help="texts of one length run together"),
    ]


def run_sharded(args: Namespace, model: Any, items: "Items", task: "ShardTask") -> int:
    """Plan a study in shards, or go on with the same one, and merge it once every shard is there.

    Raises:
        ValueError: If the folder holds another study, or the model can't be named to other processes.
    """
    from tl_neuron_attr import sweep

    plan = sweep.plan_study(model, items, task=task, out=args.out, shards=args.shards)
    stage = getattr(args, "stage", None)
    stages = None if stage is None else [stage]
    if args.runner == "loop":
        chosen = None if args.shard is None else [args.shard]
        if chosen and stages is None:  # one job of an array: what comes after needs every other job's shard
            stages = [next((stage for stage in plan.task.stages if plan.unfinished(stage)), plan.task.stages[-1])]
        sweep.run_study(plan, model, shards=chosen, stages=stages, progress=not args.quiet)
    elif args.shard is not None or stages is not None:
        raise ValueError(f"--runner {args.runner} runs every shard: leave out --shard and --stage")
    elif args.runner == "pool":
        sweep.run_in_pool(_model_name(args), args.out, workers=args.workers, progress=not args.quiet)
    else:
        sweep.run_on_ray(_model_name(args), args.out, actors=args.workers, cpus=args.cpus, gpus=args.gpus)
    left = {stage: len(plan.unfinished(stage)) for stage in plan.task.stages}
    if any(left.values()):
        counts = ", ".join(f"{n} of {stage}" for stage, n in left.items())
        note(args, f"shards left: {counts}; then: tl-neuron-attr study merge {args.out}")
        return 0
    return merge(args, args.out)


def merge(args: Namespace, out: str | Path) -> int:
    """Merge a finished study and write its tables; of a knowledge study, print the main one and write the page."""
    from tl_neuron_attr import sweep
    from tl_neuron_attr.vis import merged_study

    tables = sweep.merge_study(out)
    if "decreases" not in tables:
        show(_list_of_tables(tables, out))
        return 0
    show(_main_table(tables))
    if "://" not in str(out):
        write_page(args, merged_study(tables), Path(out) / "study.html")
    return 0


def repair(args: Namespace, out: str | Path) -> int:
    """Remove the shards that can't be read, so that the next run makes them anew."""
    from tl_neuron_attr import sweep

    removed = sweep.repair_study(out)
    note(args, f"removed {', '.join(removed)}: run the study again" if removed else f"every shard of {out} can be read")
    return 0


def _list_of_tables(tables: "Mapping[str, Any]", out: str | Path) -> Any:
    from tl_neuron_attr.results.table import Table

    return Table(("table", "rows"), [(name, len(frame)) for name, frame in tables.items()], f"written to {out}/tables")


def _main_table(tables: "Mapping[str, Any]") -> Any:
    """Return what was kept and what zeroing neurons costs, one row per type."""
    from tl_neuron_attr.results.table import Table

    lost = tables["decreases"].pivot(index="type", columns="zeroed", values="prob")
    zeroed = list(dict.fromkeys(tables["decreases"]["zeroed"]))
    rows = [
        (row["type"], f"{row['kept']} of {row['asked']}", *lost.reindex([row["type"]])[zeroed].iloc[0])
        for row in tables["kept"].to_dict("records")
    ]
    return Table(("type", "kept", *(f"{name} zeroed, prob -%" for name in zeroed)), rows, "what zeroing neurons costs")


def _model_name(args: Namespace) -> str:
    return "demo" if args.model is None else str(args.model)
