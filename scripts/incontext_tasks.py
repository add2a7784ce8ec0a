"""How well models classify in context, by text, label words and what ends a demonstration: ``make results-real``.

Accuracy over the vocabulary and among the two labels, and the log-odds of the right one; every line is written when it
is measured. Without ``--data`` the words alone are measured.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from incontext_real import ENDS, examples, task_options
from tables import Stopwatch, markdown

import tl_neuron_attr as tna
from tl_neuron_attr.incontext import icl_prompts, outcomes
from tl_neuron_attr.results.intervals import interval, shown_interval


def conditions(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of a task with what its prompts are drawn by."""
    words = {"examples": examples([], options.longest), "k": options.shots}
    for end in ENDS:
        yield "words", words | {"end": end}
    if options.data:
        texts = {"examples": examples(options.data, options.longest), "k": options.shots, "end": "line break"}
        yield "texts", texts
        if options.natural:
            fixed = {"labels": options.natural, "classes": [path.name for path in options.data]}
            yield "texts", texts | fixed | {"k": options.natural_shots}


def measured(model: Any, task: str, drawn: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Return one row: the task, the prompts, and what the model answers."""
    chosen = {"labels": ("foo", "bar")} | drawn | {"end": ENDS[drawn["end"]]}
    prompts = icl_prompts(model, n=options.queries, seed=options.seed, **chosen)
    result = outcomes(model, prompts, batch_size=options.batch_size)

    def shown(values: torch.Tensor, spec: str = ".3f") -> str:
        return shown_interval(*interval(pd.Series(values.double().tolist())), spec=spec)

    return {
        "model": model.cfg.model_name.split(" (")[0],
        "task": task,
        "labels": ", ".join(chosen["labels"]),
        "shots": chosen["k"],
        "end": drawn["end"],
        "longest, tokens": max(len(prompt) for prompt in prompts),
        "over the vocabulary": shown(result.right("vocabulary")),
        "among labels": shown(result.right("labels")),
        "log-odds (nats)": shown(result.log_odds, "+.2f"),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["qwen2.5-coder-0.5b", "smollm2-135m", "gemma3-270m"])
    parser.add_argument("--natural", nargs=2, help="labels that mean the classes of the two files of --data")
    parser.add_argument("--shots", type=int, default=8, help="demonstrations of a prompt labelled foo and bar")
    parser.add_argument("--natural-shots", type=int, default=4, help="demonstrations of a prompt of natural labels")
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--out", type=Path, required=True)
    task_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    spent, rows = Stopwatch(options.device), []
    for name in options.models:
        model = tna.load(name, device=options.device)
        for task, drawn in conditions(options):
            rows.append(measured(model, task, drawn, options))
            caption = f"{options.queries} prompts a line, texts of at most {options.longest} words, chance 0.5."
            options.out.write_text(f"{markdown(pd.DataFrame(rows))}\n\n{caption} {spent}.\n")
            print(rows[-1], spent, flush=True)


if __name__ == "__main__":
    main()
