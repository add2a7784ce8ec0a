"""What a study costs a prompt, in batches and one at a time: ``python benchmarks/sweep.py [--out FILE] [--quick]``.

1. Prompts a second of the study that walks one prompt at a time, and of the same measurements in shards, by batch size.
2. A merge of many synthetic records: time, and memory beside the number of records.
3. A loop against a pool of two and two Ray actors, on the bundled model.

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
from models import gpt2, prompts
from tqdm import tqdm

import tl_neuron_attr as tna
from tl_neuron_attr import evaluate, sweep
from tl_neuron_attr.evaluate import StudyPrompt
from tl_neuron_attr.evaluate.examine import examine
from tl_neuron_attr.model.targets import token_id
from tl_neuron_attr.model.tokens import prompt_ids

Made = tuple[Any, list[StudyPrompt]]


def random_gpt2(n: int) -> Made:
    """The shape of GPT-2 small and random prompts of 16 tokens, each asked for what the model predicts."""
    model = gpt2()
    texts = [" ".join(f"w{i}" for i in ids) for ids in prompts(n, 16).tolist()]
    with torch.no_grad():
        targets = [int(model(prompt_ids(model, text)[None])[0, -1].argmax()) for text in texts]
    return model, [
        StudyPrompt(t, f"w{target}", f"type {i}") for i, (t, target) in enumerate(zip(texts, targets, strict=True))
    ]


def real(name: str, n: int) -> Made:
    """A real model and facts that it knows."""
    model = tna.load(name)
    facts = [p for group in evaluate.real_facts(None).values() for p in group]
    status = evaluate.select(model, facts)["status"]
    return model, [p for p, found in zip(facts, status, strict=True) if found == "kept"][:n]


def bundled(n: int) -> Made:
    """The bundled model and its facts."""
    facts = [p for group in evaluate.facts(per_type=n).values() for p in group]
    return tna.demo.load(), facts[:n]


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of a piece of work."""
    start = time.process_time()
    work()
    return time.process_time() - start


def throughput(name: str, made: Made, batches: tuple[int, ...], walked: int) -> list[tuple[object, ...]]:
    """Prompts a CPU second, one at a time and by batch size."""
    model, asked = made
    sizes = evaluate.Sizes.fitting(model)
    few = asked[:walked]
    targets = [token_id(model, p.target, "target") for p in few]
    one_by_one = cpu_seconds(
        lambda: [examine(model, p.prompt, t, sizes=sizes, seed=0) for p, t in zip(few, targets, strict=True)]
    ) / len(few)
    rows: list[tuple[object, ...]] = [(name, "one at a time", len(few), one_by_one, 1.0)]
    for size in tqdm(batches, desc=name):
        task = sweep.KnowledgeTask(sizes=sizes, batch_size=size)
        items = sweep.prompt_items(model, asked)
        plan = sweep.plan_study(model, items, task=task, out=mkdtemp(), shards=1)
        each = cpu_seconds(lambda plan=plan: sweep.run_study(plan, model, progress=False)) / len(asked)
        rows.append((name, f"batches of {size}", len(asked), each, one_by_one / each))
    return rows


def merge_row(records: int, each: int = 1000) -> tuple[object, ...]:
    """Time and memory of a merge of synthetic records: 12 layers of 12 heads, 100 neurons of each kind, 5 types."""
    model, asked = bundled(5)
    folder = Path(mkdtemp())
    items = pd.concat([sweep.prompt_items(model, asked)] * (records // len(asked)), ignore_index=True)
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
        plan = sweep.plan_study(model, sweep.prompt_items(model, facts), task=task, out=out, shards=4)
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
    n, batches = (4, (1, 4)) if args.quick else (32, (1, 2, 4, 8, 16, 32))
    rows = throughput("GPT-2-small shape, 16 tokens", random_gpt2(n), batches, 1 if args.quick else 2)
    rows += throughput("bundled model", bundled(n), batches, n)
    if not args.quick:
        few = (1, 4, 16)
        rows += throughput("SmolLM2-135M", real("smollm2-135m", 16), few, 1)
        rows += throughput("Gemma-3-270M", real("gemma3-270m", 8), few, 1)
    headings = ("model", "study", "prompts", "CPU s a prompt", "prompts a second, times")
    records = (2000, 4000) if args.quick else (args.records // 100, args.records // 10, args.records)
    merged = markdown(("records", "shards", "CPU s", "memory grown by MiB"), [merge_row(n) for n in records])
    parts = [
        f"# Sweeps\n\n{machine()}\n\n## A prompt\n\n{markdown(headings, rows)}",
        f"## A merge\n\n{merged}",
        f"## What runs the shards\n\n{runners(12 if args.quick else 140)}",
    ]
    text = "\n\n".join(parts) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
