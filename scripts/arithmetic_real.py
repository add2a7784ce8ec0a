"""Paper 3's experiments on a real model that calculates, beside its numbers: ``make results-real``.

Problems are asked as questions, which Qwen2.5-Coder answers where it does not go on from ``3+5=``. Every head is zeroed
on a few cases; the heads that cost most log-probability there are zeroed on all of them. Every section is written when
it is done, so that a run that is stopped leaves what it had.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import torch
from tables import Stopwatch, markdown, ranged

import tl_neuron_attr as tna
from tl_neuron_attr import cna
from tl_neuron_attr.cna import Case
from tl_neuron_attr.cna.arithmetic_cases import Op
from tl_neuron_attr.model.components import Component, Components, Head, head_name
from tl_neuron_attr.results.intervals import interval

ASKED = {op: f"Q: What is {{a}} {word} {{b}}? A: " for op, word in {"+": "plus", "-": "minus", "*": "times"}.items()}
GROUPS: tuple[tuple[Op, int], ...] = (("+", 1), ("-", 1), ("*", 1), ("+", 2), ("-", 2))
KS = (99, 30, 10)
SHOWN = 5  # heads of the table, as in paper 3, Table 1


def screened(model: Any, cases: list[Case], n: int) -> tuple[list[Head], pd.Series]:
    """Return the heads whose zeroing costs ``n`` cases most log-probability, and the mean cost of each."""
    drops = [cna.head_effects(model, torch.tensor(c.tokens), c.answer, progress=False) for c in cases[:n]]
    mean = torch.stack([each.drop for each in drops]).mean(0)
    order = mean.flatten().argsort(descending=True).tolist()
    heads = [divmod(i, mean.shape[1]) for i in order[:SHOWN]]
    return heads, pd.Series({head_name(*head): float(mean[head]) for head in heads})


@torch.no_grad()
def masked(model: Any, cases: list[Case], head: Head, seed: int) -> pd.DataFrame:
    """Zero the neurons that a head switches on in each case, and random ones of its layer and above (Table 5)."""
    above: list[Component] = [
        ("mlp", layer, i) for layer in range(head[0], model.cfg.n_layers) for i in range(model.cfg.d_mlp)
    ]
    rows: list[dict[str, Any]] = []
    for n, case in enumerate(cases):
        tokens = torch.tensor([case.tokens])
        _, cache = model.run_with_cache(tokens)
        with tna.ablate(model, [head]):
            _, other = model.run_with_cache(tokens)
        top = cna.changed_neurons(cache, other, case.answer, max(KS), text=False)[0]
        before = float(model(tokens)[0, -1].log_softmax(-1)[case.answer])
        for k in KS:
            drawn = Random(f"{seed} {n} {k}").sample(above, k)
            picked: dict[str, Components] = {"the neurons of the largest change": top.top(k), "random neurons": drawn}
            for name, zeroed in picked.items():
                with tna.ablate(model, zeroed):
                    left = model(tokens)[0, -1].log_softmax(-1)
                right = int(left.argmax()) == case.answer
                rows.append({"zeroed": name, "k": k, "right": right, "lost": before - float(left[case.answer])})
    return pd.DataFrame(rows)


def sections(model: Any, options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Yield the tables with their titles."""
    groups: dict[str, list[Case]] = {}
    answers: list[pd.DataFrame] = []
    for op, digits in GROUPS:
        some = cna.problems(op, digits=digits, n=min(options.cases, 55), seed=options.seed)
        for name, template in (("bare", "{a}" + op + "{b}= "), ("question", ASKED[op])):
            cases = cna.arithmetic_cases(model, some, template=template)
            answers.append(cna.whole_answers(model, cases).summary().assign(prompt=name))
        groups[f"{digits}D{op}"] = [case for case in cases if not case.given]
    yield "Accuracy of first tokens and whole answers", markdown(pd.concat(answers))
    known = {
        group: [c for c, right in zip(cases, cna.answered(model, cases), strict=True) if right]
        for group, cases in groups.items()
    }
    best: dict[str, list[Head]] = {}
    costs: list[dict[str, Any]] = []
    for group, cases in known.items():
        best[group], cost = screened(model, cases, options.screen)
        costs += [{"group": group, "head": name, "log p lost, nats": value} for name, value in cost.items()]
    title = f"Heads that cost most log-probability, zeroed one at a time, {options.screen} cases a group"
    yield title, markdown(pd.DataFrame(costs))
    heads = list(dict.fromkeys(head for group in best.values() for head in group[:2]))
    found = cna.head_accuracy(model, [c for cases in groups.values() for c in cases], heads=heads, progress=False)
    yield (
        "Accuracy of the first token with one head zeroed, % (Table 1)",
        markdown((100 * found.by_group()).rename_axis("group").reset_index(), 1),
    )
    for group in options.masked:
        frame = masked(model, known[group][: options.screen * 2], best[group][0], options.seed)
        rows = [
            {"zeroed": name, "neurons": k, "right, %": 100 * some["right"].mean(),
             "log p lost, nats": ranged(*interval(some["lost"]), ".2f")}
            for (name, k), some in frame.groupby(["zeroed", "k"], sort=False)
        ]  # fmt: skip
        what = f"{group}: neurons that {head_name(*best[group][0])} switches on, {options.screen * 2} cases (Table 5)"
        yield what, markdown(pd.DataFrame(rows), 1)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--cases", type=int, default=40, help="problems a group")
    parser.add_argument("--screen", type=int, default=8, help="cases a group on which every head is zeroed")
    parser.add_argument("--masked", nargs="*", default=["1D+", "1D-", "1D*"], help="groups whose neurons are masked")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = tna.load(options.model)
    text = f"### {model.cfg.model_name}\n"
    spent = Stopwatch()
    for title, body in sections(model, options):
        text += f"\n#### {title}\n\n{body}\n\n{spent} so far.\n"
        options.out.write_text(text)
        print(f"{title}\n{body}", flush=True)


if __name__ == "__main__":
    main()
