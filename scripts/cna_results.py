"""Run paper 3's experiments on the demo model: ``python scripts/cna_results.py --out docs/results/cna.md``.

Heads zeroed over arithmetic (Tables 1 to 3), the neurons a head switches on masked and kept (Table 5), their roots
masked (Table 6), and neurons chosen by their vocabulary alone (Table 8), each beside the paper's figures for Llama-7B.
About a minute on one core.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from tl_neuron_attr import cna, demo
from tl_neuron_attr.cna import Case, HeadAccuracy
from tl_neuron_attr.model.components import Head, head_name

GROUPS = (("+", 1), ("-", 1), ("*", 1), ("+", 2), ("-", 2))
CASES, SEED = 300, 0
NUMBERS = [str(n) for n in range(10)] + ["+", "-", "*", "="]
"""The concept: the ten digits and the operations; the paper does not give its list."""
MORE_THAN = (0, 1, 2, 3, 4, 5)

PAPER: dict[str, Any] = {
    "heads": [
        ("2D+", 96.8, "17_22", 42.9), ("2D-", 94.4, "17_22", 72.3), ("2D*", 56.6, "17_22", 50.5),
        ("2D/", 51.4, "14_19", 13.8),
    ],
    "digits": [
        ("1D", "17_22", 46.5, "17_22", 62.2, "20_18", 6.8, "14_19", 54.9),
        ("2D", "17_22", 58.4, "17_22", 52.6, "20_18", 11.2, "14_19", 71.8),
        ("3D", "17_22", 52.5, "17_22", 56.9, "20_18", 8.1, "14_19", 53.2),
    ],
    "kinds": [("+", 59.2, 57.1), ("-", 49.8, 65.5), ("*", 11.6, 11.3), ("/", 63.6, 75.2)],
    "mask": {
        "mask": (100.0, 96.0, 89.5, 86.8, 68.4), "keep": (3.9, 7.8, 13.2, 18.4, 38.2),
        "coef": (49.1, 60.4, 67.2, 72.7, 77.1),
    },
    "root": [
        ("1D+ 1D-, Llama-7B", "17_22", 15.8, 14.8, 12.5, 9.5, 4.4), ("2D-, GPT-J", "13_9", 1.9, 1.7, 1.6, 1.2, 1.9),
    ],
    "zero shot": {0: (51_980, 98.7), 1: (10_426, 68.4), 2: (1_953, 53.9), 3: (510, 43.4)},
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """The model, its cases by group, and what zeroing each head does to them."""

    model: Any
    cases: dict[str, list[Case]]
    heads: HeadAccuracy

    @classmethod
    def measured(cls, n: int) -> "Setting":
        """Return at most ``n`` problems per group."""
        model = demo.load()
        cases: dict[str, list[Case]] = {}
        for op, digits in GROUPS:
            some = cna.problems(op, digits=digits)
            chosen = some if len(some) <= n else cna.problems(op, digits=digits, n=n, seed=SEED)
            cases[f"{digits}D{op}"] = cna.arithmetic_cases(model, chosen)
        return cls(model, cases, cna.head_accuracy(model, [case for group in cases.values() for case in group]))

    def best(self, group: str) -> Head:
        """Return the head whose zeroing costs a group most."""
        return self.heads.ranked(group)[0]


def markdown(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows as a Markdown table; floats have one decimal."""
    cells = [[f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    return pd.DataFrame(cells, columns=list(headings)).to_markdown(index=False, disable_numparse=True)


def head_table(setting: Setting) -> str:
    """Return Table 1: accuracy with the best heads zeroed, and the paper's best head of each operation."""
    wide = 100 * setting.heads.by_group()
    best = list(dict.fromkeys(head_name(*head) for g in wide.index for head in setting.heads.ranked(g)[:2]))
    ours = [(group, *(float(wide.loc[group, column]) for column in ("untouched", *best))) for group in wide.index]
    theirs = markdown(("Llama-7B", "untouched", "head", "accuracy"), PAPER["heads"])
    return f"{markdown(('accuracy, %', 'untouched', *best), ours)}\n\nThe paper's:\n\n{theirs}"


def digits_table(setting: Setting) -> str:
    """Return Table 2: what zeroing an operation's best head costs it, by number of digits."""
    decrease = 100 * setting.heads.decrease()
    rows = []
    for digits in ("1D", "2D"):
        row: list[object] = [digits]
        for op in "+-*":
            if f"{digits}{op}" in decrease.index:
                head = head_name(*setting.best(f"1D{op}"))
                row += [head, float(decrease.loc[f"{digits}{op}", head])]
            else:
                row += ["", "not claimed"]
        rows.append(row)
    ours = markdown(("decrease, %", "+", "%", "-", "%", "*", "%"), rows)
    theirs = markdown(("Llama-7B", "+", "%", "-", "%", "*", "%", "/", "%"), PAPER["digits"])
    return f"The head that matters most for one digit.\n\n{ours}\n\nThe paper's:\n\n{theirs}"


def kind_table(setting: Setting) -> str:
    """Return Table 3: what the best head of each group holds of memorised and of carried digits."""
    decrease = 100 * setting.heads.decrease_by_kind()
    rows = []
    for group in setting.cases:
        head = head_name(*setting.best(group))
        kinds = [f"{group} {kind}" for kind in ("memorised", "carried")]
        rows.append((group, head, *(float(decrease.loc[k, head]) if k in decrease.index else "none" for k in kinds)))
    theirs = markdown(("Llama-7B", "memorised", "carried"), PAPER["kinds"])
    return f"{markdown(('decrease, %', 'head', 'memorised', 'carried'), rows)}\n\nThe paper's:\n\n{theirs}"


def mask_table(setting: Setting) -> str:
    """Return Table 5 for the best head of each group."""
    rows = []
    for group, cases in setting.cases.items():
        head = setting.best(group)
        found = cna.mask_keep_coef(setting.model, cases, head, seed=SEED)
        columns = {name: (100 * found.frame[name]).tolist() for name in ("mask", "random", "keep", "coef")}
        rows += [(group, head_name(*head), name, *values) for name, values in columns.items()]
    theirs = [("1D+ 1D-, Llama-7B", "17_22", name, *values) for name, values in PAPER["mask"].items()]
    return markdown(("", "head", "%", *(f"top {k}" for k in cna.KS)), rows + theirs)


def root_table(setting: Setting) -> str:
    """Return Table 6 for the best head of each group."""
    rows = []
    for group, cases in setting.cases.items():
        head = setting.best(group)
        found = cna.root_masking(setting.model, cases, head, seed=SEED)
        for name in ("root", "random"):
            rows.append((group, head_name(*head), f"{name} zeroed", *(100 * found.frame[name]).tolist()))
    rows += [(name, head, "root zeroed", *values) for name, head, *values in PAPER["root"]]
    return markdown(("", "head", "coefficients lost, %", *(f"top {k}" for k in cna.KS)), rows)


def zero_shot_table(setting: Setting) -> str:
    """Return Table 8 for all groups of cases together."""
    found = cna.concept_neurons(setting.model, NUMBERS)
    cases = [case for group in setting.cases.values() for case in group]
    tested = cna.zero_shot(setting.model, cases, found, more_than=MORE_THAN)
    rows = []
    for row in tested.frame.to_dict("records"):
        neurons, drop = PAPER["zero shot"].get(row["more_than"], ("", ""))
        rows.append((row["more_than"], row["neurons"], 100 * row["concept"], 100 * row["random"], neurons, drop))
    headings = ("more than M words", "neurons", "decrease, %", "random neurons, %")
    note = (
        f"{tested.neurons} neurons of layers {found.layers[0]} to {found.layers[-1]}; {len(found.words)} words: "
        f"{' '.join(found.words)}. The paper's control: 1,953 random neurons cost 2.6 %, of 176,128."
    )
    return f"{note}\n\n{markdown((*headings, 'Llama-7B neurons', 'Llama-7B decrease, %'), rows)}"


def main() -> None:
    """Measure everything and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=CASES, help=f"at most this many problems per group ({CASES})")
    args = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting.measured(args.cases)
    counts = ", ".join(f"{len(cases)} of {group}" for group, cases in setting.cases.items())
    sections = {
        "One head zeroed (Table 1)": f"{counts}; seed {SEED}.\n\n{head_table(setting)}",
        "The same head, by number of digits (Table 2)": digits_table(setting),
        "Memorised and carried digits (Table 3)": kind_table(setting),
        "The neurons a head switches on: masked, kept, and their coefficients (Table 5)": mask_table(setting),
        "Their root masked (Table 6)": root_table(setting),
        "Neurons picked by their vocabulary alone (Table 8)": zero_shot_table(setting),
    }
    text = "\n\n".join(f"### {title}\n\n{body}" for title, body in sections.items()) + "\n"
    args.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
