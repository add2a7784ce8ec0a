"""Paper 2's experiments on a real model, beside its numbers: ``make results-real``.

Words of two kinds, animals and countries, labelled ``foo`` and ``bar``; which is which is drawn anew for every prompt.
Every section is written when it is done, so that a run that is stopped leaves what it had. A model that does not do the
task has no heads, and the sections behind the first are left out.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import torch
from tables import Stopwatch, markdown

import tl_neuron_attr as tna
from tl_neuron_attr.incontext import (
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
            model, seen, n=options.heads, screen=True, random_sets=3, batch_size=options.batch_size, progress=False
        )
        kept.extend(found.heads)
        columns = ["zeroed", "heads", "in_vocabulary", "among_labels", "log_odds", "low", "high"]
        return shown(found.table()) + (f"\n\n{markdown(found.zeroed[columns])}" if kept else "")

    def shift() -> str:
        return shown(attention_shift(model, fresh, kept).table())

    def towers() -> str:
        return shown(learned_metric(model, fresh, heads=kept, batch_size=options.batch_size).table())

    def biases() -> str:
        report = icl_biases(model, even, kept, orders=orders(options), batch_size=options.batch_size, progress=False)
        return shown(report.table())

    found_on = f"{len(seen)} prompts, half to find, half to measure"
    shots = f"{options.even} + {options.even} demonstrations, {options.orders} orders"
    if not kept:
        yield f"Heads found, and zeroed together ({found_on})", heads
    later = {
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


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--queries", type=int, default=40, help="prompts that heads are found and measured on")
    parser.add_argument("--fresh", type=int, default=24, help="prompts of the later sections")
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--data", type=Path, help="CSV or JSONL of texts and classes instead of the words")
    parser.add_argument("--longest", type=int, default=12, help="the most words of a text")
    parser.add_argument("--shots", type=int, default=8, help="demonstrations of a prompt")
    parser.add_argument("--even", type=int, default=4, help="demonstrations a label where biases are measured")
    parser.add_argument("--orders", type=int, default=6, help="label sequences that recency is measured on")
    parser.add_argument(
        "--known", nargs="*", help="heads found in an earlier run, such as L23H10: the first section is left out"
    )
    parser.add_argument("--sections", nargs="*", default=["shift", "towers", "biases"], help="the later sections")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = tna.load(options.model, device=options.device)
    rows = [{"text": word, "label": kind} for kind, words in WORDS.items() for word in words.split()]
    examples = [e for e in read_examples(options.data or rows).examples if len(e.text.split()) <= options.longest]
    drawn = [
        (options.shots, options.queries, 1),
        (options.shots, options.fresh, 2),
        (2 * options.even, options.fresh, 3),
    ]
    sets = [
        icl_prompts(model, examples, n, k=k, counts=(k // 2, k // 2), end="\n", seed=options.seed + i)
        for k, n, i in drawn
    ]
    text = f"### {model.cfg.model_name}\n"
    for title, section in sections(model, sets[0], sets[1], sets[2], options):
        spent = Stopwatch(options.device)
        body = section()
        text += f"\n#### {title}\n\n{body}\n\n{spent}.\n"
        options.out.write_text(text)
        print(f"{title}\n{body}", flush=True)


if __name__ == "__main__":
    main()
