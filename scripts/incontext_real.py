"""Paper 2's experiments on a real model, beside its numbers: ``make results-real``.

Words of two kinds, animals and countries, labelled ``foo`` and ``bar``; which is which is drawn anew for every prompt.
Every section is written when it is done, so that a run that is stopped leaves what it had.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tables import Stopwatch, markdown

import tl_neuron_attr as tna
from tl_neuron_attr.incontext import (
    IclPrompt,
    InContextHeads,
    attention_shift,
    icl_biases,
    icl_prompts,
    in_context_heads,
    learned_metric,
    read_examples,
)
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
) -> dict[str, Callable[[], str]]:
    """Return the sections by title, each to be called in turn: later ones take the heads that the first found."""
    kept: list[InContextHeads] = []

    def heads() -> str:
        found = in_context_heads(
            model, seen, n=options.heads, screen=True, random_sets=3, batch_size=options.batch_size, progress=False
        )
        kept.append(found)
        columns = ["zeroed", "heads", "in_vocabulary", "among_labels", "log_odds", "low", "high"]
        return f"{shown(found.table())}\n\n{markdown(found.zeroed[columns])}"

    def shift() -> str:
        return shown(attention_shift(model, fresh, kept[0].heads).table())

    def towers() -> str:
        return shown(learned_metric(model, fresh, heads=kept[0].heads, batch_size=options.batch_size).table())

    def biases() -> str:
        report = icl_biases(model, even, kept[0].heads, batch_size=options.batch_size, progress=False)
        return shown(report.table())

    found_on = f"{len(seen)} prompts, half to find, half to measure"
    return {
        f"Heads found, and zeroed together ({found_on})": heads,
        f"Labels reversed ({len(fresh)} prompts; Tables 5 and 6)": shift,
        f"What the towers tell apart ({len(fresh)} prompts)": towers,
        f"The two biases ({len(even)} prompts, 2 + 2 demonstrations; Tables 7 and 8)": biases,
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--queries", type=int, default=40, help="prompts that heads are found and measured on")
    parser.add_argument("--fresh", type=int, default=24, help="prompts of the later sections")
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--data", type=Path, help="CSV or JSONL of texts and classes instead of the words")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = tna.load(options.model, device=options.device)
    rows = [{"text": word, "label": kind} for kind, words in WORDS.items() for word in words.split()]
    examples = read_examples(options.data or rows).examples
    drawn = [(8, options.queries, 1), (8, options.fresh, 2), (4, options.fresh, 3)]
    sets = [icl_prompts(model, examples, n, k=k, counts=(k // 2, k // 2), end="\n", seed=seed) for k, n, seed in drawn]
    text = f"### {model.cfg.model_name}\n"
    for title, section in sections(model, sets[0], sets[1], sets[2], options).items():
        spent = Stopwatch(options.device)
        body = section()
        text += f"\n#### {title}\n\n{body}\n\n{spent}.\n"
        options.out.write_text(text)
        print(f"{title}\n{body}", flush=True)


if __name__ == "__main__":
    main()
