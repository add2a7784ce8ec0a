"""What a prompt of the knowledge study costs, one at a time and in batches: ``python benchmarks/sweep_prompts.py``.

"One at a time" is ``evaluate.examine`` without the sums over all neurons (Table 5), which shards leave out too unless
asked; what ``examine`` measures beside, the path of Figure 3, is a readout of 61 vectors. "Batches" are the same
prompts' stage ``scores`` in one shard; ``cross`` zeroes the best heads of five types on every prompt. Rows go to a JSON
file; several processes measure rows at once, each with one thread and its own model::

    python benchmarks/sweep_prompts.py --models gpt2 smollm2-135m --processes 12 --out cpu.json
    python benchmarks/sweep_prompts.py --models gpt2 gpt2-6.7b --device cuda --batches 1 16 64 --out gpu.json
    python benchmarks/sweep_prompts.py --table cpu.json gpu.json
"""

import argparse
import json
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from measure import markdown
from models import gpt2, prompts
from tqdm import tqdm

import tl_neuron_attr as tna
from tl_neuron_attr import evaluate, sweep
from tl_neuron_attr.evaluate import StudyPrompt
from tl_neuron_attr.evaluate.examine import examine
from tl_neuron_attr.evaluate.select import AskedPrompt, asked_prompt
from tl_neuron_attr.model.tokens import prompt_ids

_SHAPES = {"gpt2": {}, "gpt2-6.7b": {"n_embd": 4096, "n_layer": 32, "n_head": 32}}
"""Random models: GPT-2 small, and as many parameters as the 7 B models have."""
_BUNDLED = "demo"
_TYPES = 5
Row = dict[str, Any]


def made(name: str, n: int, device: str) -> tuple[Any, list[StudyPrompt]]:
    """Return a model and prompts that it answers: random ones of 16 tokens, or facts a real model knows."""
    if name not in _SHAPES:
        model = tna.load(name, device=device)
        groups = evaluate.facts() if name == _BUNDLED else evaluate.real_facts(None)
        facts = [p for group in groups.values() for p in group]
        status = evaluate.select(model, facts)["status"]
        known = [p for p, found in zip(facts, status, strict=True) if found == "kept"]
        return model, (known * -(-n // len(known)))[:n]
    model = gpt2(device=device, **_SHAPES[name])
    texts = [" ".join(f"w{i}" for i in ids) for ids in prompts(n, 16).tolist()]
    with torch.no_grad():
        targets = [int(model(prompt_ids(model, text)[None])[0, -1].argmax()) for text in texts]
    pairs = enumerate(zip(texts, targets, strict=True))
    return model, [StudyPrompt(text, f"w{target}", f"type {i % _TYPES}") for i, (text, target) in pairs]


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Return the wall-clock and CPU time of a piece of work."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - cpu


def measured(name: str, batch: int, n: int, device: str) -> list[Row]:
    """Return the seconds a prompt of one way; a batch of 0 is ``examine``, one prompt at a time."""
    if device == "cpu":
        torch.set_num_threads(1)
    about: Row = {"model": name, "device": device, "batch": batch, "prompts": n}
    try:
        model, asked = made(name, n, device)
        if device != "cpu":  # what is compiled and reserved at the first run is no cost of a prompt
            for _ in _stages(model, asked[: max(batch, 1)], batch):
                pass
        rows = [
            {**about, "stage": stage, "seconds": wall / n, "cpu_seconds": cpu / n}
            for stage, (wall, cpu) in _stages(model, asked, batch)
        ]
        memory = torch.cuda.max_memory_allocated() / 2**30 if device != "cpu" else None
        return [{**row, "gpu_gib": memory} for row in rows]
    except RuntimeError as error:  # a batch that does not fit the device: the other rows are worth having
        return [{**about, "stage": "failed", "reason": str(error).splitlines()[0][:200]}]


def _stages(model: Any, asked: Sequence[StudyPrompt], batch: int) -> list[tuple[str, tuple[float, float]]]:
    sizes = evaluate.Sizes.fitting(model)
    if batch == 0:
        read = [one for p in asked if isinstance(one := asked_prompt(model, p), AskedPrompt)]
        found = seconds(lambda: [examine(model, one, sizes=sizes, seed=0, every_neuron=False) for one in read])
        return [("scores", found)]
    task = sweep.KnowledgeTask(sizes=sizes, batch_size=batch)
    plan = sweep.plan_study(model, sweep.prompt_items(asked), task=task, out=mkdtemp(), shards=1)

    def run(stage: str) -> None:
        sweep.run_study(plan, model, stages=[stage], progress=False)

    return [(stage, seconds(lambda stage=stage: run(stage))) for stage in task.stages]


def pool_row(name: str, workers: int, n: int) -> Row:
    """Return the seconds a prompt of a pool that shares all cores, by the clock and of CPUs, its start included."""
    torch.set_num_threads(1)
    model, asked = made(name, n, "cpu")
    task, out = sweep.KnowledgeTask(sizes=evaluate.Sizes.fitting(model)), mkdtemp()
    sweep.plan_study(model, sweep.prompt_items(asked), task=task, out=out, shards=2 * workers)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall, _ = seconds(lambda: sweep.run_in_pool(name, out, workers=workers, progress=False))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    about: Row = {"model": name, "device": "cpu", "workers": workers, "prompts": n, "stage": "all"}
    return {**about, "seconds": wall / n, "cpu_seconds": cpu / n}


def tables(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown, each beside the model's one prompt at a time."""
    alone = {(r["model"], r["device"]): _cost(r) for r in rows if r.get("batch") == 0 and "seconds" in r}
    shown = []
    for row in rows:
        way = f"pool of {row['workers']}" if "workers" in row else f"batches of {row['batch']}"
        way = "one at a time" if row.get("batch") == 0 else way
        each, before = _cost(row), alone.get((row["model"], row["device"]))
        times = f"{before / each:.3g}" if before and each and row["stage"] == "scores" else ""
        cost = row.get("reason") if each is None else each
        shown.append((row["model"], row["device"], way, row["stage"], row["prompts"], cost, times))
    return markdown(("model", "device", "study", "stage", "prompts", "s a prompt", "times as fast"), shown)


def _cost(row: Row) -> float | None:
    """Return the CPU seconds of a prompt, which others on the machine change little, or the time on a GPU."""
    return row.get("cpu_seconds" if row["device"] == "cpu" else "seconds")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=["gpt2", "smollm2-135m"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--workers", type=int, nargs="*", default=[], help="pools measured afterwards, on all cores")
    parser.add_argument("--prompts", type=int, default=16, help="of each row; a larger batch takes as many as it holds")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--table", type=Path, nargs="+", help="print the rows of these files, and measure nothing")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.table:
        print(tables([row for path in args.table for row in json.loads(path.read_text())]))
        return
    asked = [(name, b, max(b, args.prompts)) for name in args.models for b in [0, *args.batches]]
    rows: list[Row] = []
    with ProcessPoolExecutor(args.processes, get_context("spawn")) as pool:
        found = [pool.submit(measured, name, batch, n, args.device) for name, batch, n in asked]
        for future in tqdm(found):
            rows += future.result()
            _keep(rows, args.out)
    rows += [pool_row(args.models[-1], workers, 4 * args.prompts) for workers in args.workers]
    print(tables(rows))
    _keep(rows, args.out)


def _keep(rows: Sequence[Row], out: Path | None) -> None:
    """Write the rows there are, so that a run that is stopped leaves what it had."""
    if out:
        out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
