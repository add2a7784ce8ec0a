"""What a merge costs, and what runs the shards: ``python benchmarks/sweep.py [--out FILE] [--quick]``.

1. A merge of many synthetic records: time, and memory beside the number of records.
2. A loop against a pool of two and two Ray actors, on the bundled model.

What a prompt costs is measured by ``sweep_prompts.py``.

CPU time of one thread, so that a busy machine matters little; wall-clock time where several processes work.
"""

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pandas as pd
import torch
from measure import machine, markdown
from tqdm import tqdm

import tl_neuron_attr as tna
from tl_neuron_attr import evaluate, sweep
from tl_neuron_attr.evaluate import StudyPrompt

Made = tuple[Any, list[StudyPrompt]]


def bundled(n: int) -> Made:
    """The bundled model and its facts."""
    facts = [p for group in evaluate.facts(per_type=n).values() for p in group]
    return tna.demo.load(), facts[:n]


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of a piece of work."""
    start = time.process_time()
    work()
    return time.process_time() - start


def merge_row(records: int, each: int = 1000) -> tuple[object, ...]:
    """Time and memory of a merge of synthetic records: 12 layers of 12 heads, 100 neurons of each kind, 5 types."""
    model, asked = bundled(5)
    folder = Path(mkdtemp())
    few = sweep.prompt_items(asked)
    many = pd.concat([few.read(model)] * (records // len(asked)), ignore_index=True)
    items = sweep.Items(few.fingerprint, lambda _: many)
    plan = sweep.plan_study(model, items, task=sweep.KnowledgeTask(), out=folder, shards=records // each)
    rng = np.random.default_rng(0)
    for stage in plan.task.stages:
        frame = _synthetic(rng, each)
        for i in tqdm(range(plan.shards), desc=f"writing {stage}"):
            plan.folder.write_frame(plan.part(stage, i), frame.assign(item=np.arange(i * each, (i + 1) * each)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = cpu_seconds(lambda: sweep.merge_study(folder))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return records, plan.shards, seconds, grown


def _synthetic(rng: np.random.Generator, n: int) -> pd.DataFrame:
    def numbers(width: int) -> list[Any]:
        return list(rng.normal(size=(n, width)).astype(np.float32))

    def neurons(width: int, below: int) -> list[Any]:
        return list(rng.integers(0, below, (n, width)).astype(np.int32))

    scores = {name: numbers(12) for name in ("layers_attn", "layers_mlp")}
    scores |= {f"query_{of}_{site}": numbers(12) for of in ("mlp", "attn") for site in ("attn", "mlp")}
    chosen = {f"{of}_layer": neurons(100, 12) for of in ("value", "query")}
    chosen |= {f"{of}_index": neurons(100, 3072) for of in ("value", "query")}
    return pd.DataFrame(
        {
            "type": [f"type {i % 5}" for i in range(n)],
            "status": "kept",
            "heads": numbers(144),
            "rank": neurons(6, 100),
            "prob": numbers(6),
            "log_prob": numbers(6),
            **scores,
            **chosen,
        }
    ).assign(rank=lambda frame: frame["rank"].map(lambda rank: rank + 1))


def runners(asked: int) -> str:
    """Wall-clock time of a loop, a pool of two and two Ray actors."""
    model, facts = bundled(asked)
    rows = []
    for name, run in {
        "a loop": lambda plan, out: sweep.run_study(plan, model, progress=False),
        "a pool of two": lambda plan, out: sweep.run_in_pool("demo", out, workers=2, progress=False),
        "two Ray actors of half a CPU": lambda plan, out: sweep.run_on_ray("demo", out, actors=2, cpus=0.5),
    }.items():
        out = mkdtemp()
        task = sweep.KnowledgeTask(sizes=evaluate.Sizes.fitting(model))
        plan = sweep.plan_study(model, sweep.prompt_items(facts), task=task, out=out, shards=4)
        start = time.perf_counter()
        run(plan, out)
        rows.append((name, len(facts), time.perf_counter() - start))
    return markdown(("what runs 4 shards", "prompts", "s"), rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--records", type=int, default=1_000_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    records = (2000, 4000) if args.quick else (args.records // 100, args.records // 10, args.records)
    merged = markdown(("records", "shards", "CPU s", "memory grown by MiB"), [merge_row(n) for n in records])
    parts = [
        f"{machine()}\n\n## A merge\n\n{merged}",
        f"## What runs the shards\n\n{runners(12 if args.quick else 140)}",
    ]
    text = "\n\n".join(parts) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
