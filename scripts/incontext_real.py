"""Paper 2's experiments on a real model, beside its numbers: ``make results-real``.

Words of two kinds, animals and countries, or texts of ``--data``, labelled ``foo`` and ``bar``; which is which is drawn
anew for every prompt, unless ``--classes`` fixes it. Every section is written when it is done, so that a run that is
stopped leaves what it had. A model that does not do the task has no heads, and the sections behind the first are left
out.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import torch
from incontext_words import written_words
from tables import Stopwatch, markdown

import tl_neuron_attr as tna
from tl_neuron_attr.incontext import (
    Example,
    IclPrompt,
    attention_shift,
    icl_biases,
    icl_prompts,
    in_context_heads,
    learned_metric,
    read_examples,
)
from tl_neuron_attr.model.components import Head, required_heads
from tl_neuron_attr.results.table import Table

WORDS = {
    "animal": "lion tiger horse rabbit monkey sheep goat wolf bear fox cow pig dog cat mouse elephant eagle snake "
    "duck chicken",
    "country": "France Spain Italy Germany Japan China India Brazil Canada Mexico Egypt Norway Sweden Poland Turkey "
    "Greece Kenya Peru Chile Cuba",
}


ENDS = {"line break": "\n", "space": " "}
"""What may end a demonstration."""

MEASURES = ("accuracy", "fluctuation", "gap", "deviation", "attention deviation")
"""Rows of biases that are written: the others are of levels that the corrections do not aim at."""


def shown(table: Table) -> str:
    """Return a result's own table as Markdown."""
    return f"{table.caption}.\n\n" + markdown(pd.DataFrame(table.rows, columns=list(table.headings)))


def sections(
    model: Any, seen: list[IclPrompt], fresh: list[IclPrompt], even: list[IclPrompt], options: argparse.Namespace
) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield titles and sections, each to be called before the next: later ones take the heads that the first found."""
    kept: list[Head] = required_heads(model, options.known) if options.known else []

    def heads() -> str:
        found = in_context_heads(
            model,
            seen,
            n=options.heads,
            screen=not options.every_head,
            random_sets=3,
            batch_size=options.batch_size,
            progress=False,
        )
        kept.extend(found.heads)
        columns = ["zeroed", "heads", "in_vocabulary", "among_labels", "log_odds", "low", "high"]
        return shown(found.table()) + (f"\n\n{markdown(found.zeroed[columns])}" if kept else "")

    def words() -> str:
        return f"{len(fresh)} prompts, ten best tokens.\n\n{markdown(written_words(model, fresh, kept))}"

    def shift() -> str:
        return shown(attention_shift(model, fresh, kept).table())

    def towers() -> str:
        return shown(learned_metric(model, fresh, heads=kept, batch_size=options.batch_size).table())

    def biases() -> str:
        report = icl_biases(model, even, kept, orders=orders(options), batch_size=options.batch_size, progress=False)
        table = report.table()
        return shown(replace(table, rows=[row for row in table.rows if not report.does_task or row[1] in MEASURES]))

    found_on = f"{len(seen)} prompts, half to find, half to measure"
    shots = f"{options.even} + {options.even} demonstrations, {options.orders} orders"
    if not kept:
        yield f"Heads found, and zeroed together ({found_on})", heads
    later = {
        f"What single heads write at the labels ({len(fresh)} prompts; Table 1)": words,
        f"Labels reversed ({len(fresh)} prompts; Tables 5 and 6)": shift,
        f"What the towers tell apart ({len(fresh)} prompts)": towers,
        f"The two biases ({len(even)} prompts, {shots}; Tables 7 and 8)": biases,
    }
    yield from (item for item in later.items() if kept and item[1].__name__ in options.sections)


def orders(options: argparse.Namespace) -> list[Sequence[int]]:
    """Return label sequences: each label last in half of them, blocks and alternations first, then random ones."""
    n, rng = options.even, Random(f"orders {options.seed}")
    found: list[Sequence[int]] = [[0] * n + [1] * n, [1] * n + [0] * n, [0, 1] * n, [1, 0] * n]
    while len(found) < options.orders:
        drawn = rng.sample([0, 1] * n, 2 * n)
        found += [drawn, [1 - label for label in drawn]] if drawn not in found else []
    return found[: options.orders]


def examples(paths: Sequence[Path], longest: int) -> list[Example]:
    """Return texts of at most so many words with their classes: of a CSV or JSONL file, else the words.

    Of several files, or one of another kind, each is a class, and each of its lines a text.
    """
    if not paths:
        rows: Any = [{"text": word, "label": kind} for kind, words in WORDS.items() for word in words.split()]
    elif len(paths) == 1 and paths[0].suffix in (".csv", ".json", ".jsonl"):
        rows = paths[0]
    else:
        rows = [{"text": line, "label": path.name} for path in paths for line in path.read_text().splitlines() if line]
    return [example for example in read_examples(rows).examples if len(example.text.split()) <= longest]


def task_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that texts and labels are drawn by."""
    parser.add_argument(
        "--data", nargs="*", type=Path, default=[], help="a CSV or JSONL file, or a text file per class"
    )
    parser.add_argument("--longest", type=int, default=12, help="the most words of a text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")


def drawn(
    model: Any, texts: list[Example], n: int, k: int, options: argparse.Namespace, *, seed: int
) -> list[IclPrompt]:
    """Return ``n`` prompts of ``k`` demonstrations, as many of each label."""
    counts, named = (k // 2, k // 2), {"labels": options.labels, "classes": options.classes}
    return icl_prompts(model, texts, n, k=k, counts=counts, end=ENDS[options.end], seed=seed, **named)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--queries", type=int, default=40, help="prompts that heads are found and measured on")
    parser.add_argument("--fresh", type=int, default=24, help="prompts of the later sections")
    parser.add_argument("--shots", type=int, default=8, help="demonstrations of a prompt")
    parser.add_argument("--end", choices=ENDS, default="line break", help="what ends a demonstration")
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument(
        "--every-head", action="store_true", help="zero every head, not those of the best static scores"
    )
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--labels", nargs=2, default=["foo", "bar"])
    parser.add_argument("--classes", nargs=2, help="the class that each label stands for, in all prompts")
    parser.add_argument("--even", type=int, default=4, help="demonstrations a label where biases are measured")
    parser.add_argument("--orders", type=int, default=6, help="label sequences that recency is measured on")
    parser.add_argument(
        "--known", nargs="*", help="heads found in an earlier run, such as L23H10: the first section is left out"
    )
    parser.add_argument(
        "--sections", nargs="*", default=["words", "shift", "towers", "biases"], help="the later sections"
    )
    parser.add_argument("--out", type=Path, required=True)
    task_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = tna.load(options.model, device=options.device)
    texts = examples(options.data, options.longest)
    seen, fresh, even = (
        drawn(model, texts, n, k, options, seed=options.seed + i)
        for i, (k, n) in enumerate(
            [(options.shots, options.queries), (options.shots, options.fresh), (2 * options.even, options.fresh)], 1
        )
    )
    text = f"### {model.cfg.model_name}\n"
    for title, section in sections(model, seen, fresh, even, options):
        spent = Stopwatch(options.device)
        body = section()
        text += f"\n#### {title}\n\n{body}\n\n{spent}.\n"
        options.out.write_text(text)
        print(f"{title}\n{body}", flush=True)


if __name__ == "__main__":
    main()
