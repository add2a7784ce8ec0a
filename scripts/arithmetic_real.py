"""Paper 3's arithmetic heads on a real model, beside its numbers: ``make results-real``.

Problems are asked bare, as questions and behind four solved ones; heads are zeroed in the way of asking that
``--prompt`` names. Every head is zeroed on a few cases; those that cost most log-probability, and as many random ones,
are zeroed on other cases. A group of which the model answers too little is left out of that. Every section is written
when it is done, so that a run that is stopped leaves what it had.
"""

import argparse
from collections.abc import Iterator
from random import Random
from typing import Any

import pandas as pd
import torch
from tables import markdown, measure

import tl_neuron_attr as tna
from tl_neuron_attr import cna
from tl_neuron_attr.cna import Case
from tl_neuron_attr.cna.arithmetic_cases import Op, case_batches
from tl_neuron_attr.model.components import Head, head_name, required_heads
from tl_neuron_attr.model.rerun import unembedding_last
from tl_neuron_attr.results.intervals import change_interval, interval, shown_interval

WORDS: dict[Op, str] = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}
ASKED = {op: f"Q: What is {{a}} {word} {{b}}? A: " for op, word in WORDS.items()}
GROUPS: dict[str, tuple[Op, int]] = {
    "1D+": ("+", 1),
    "1D-": ("-", 1),
    "1D*": ("*", 1),
    "2D+": ("+", 2),
    "2D-": ("-", 2),
    "3D+": ("+", 3),
    "3D-": ("-", 3),
    "2D*": ("*", 2),
    "1D/": ("/", 1),
    "2D/": ("/", 2),
}
WAYS = ("bare", "question", "shots")
BARE = "{a} {op} {b} = "
SHOTS = 4
DOES_IT = 0.5
"""The share of first tokens a model gets right from which on heads are searched: below it there is little to lose."""


def three_ways(model: Any, group: str, n: int, seed: int) -> dict[str, list[Case]]:
    """Return the cases of ``n`` problems asked bare, as questions and behind four solved ones."""
    op, digits = GROUPS[group]
    there_are = len(cna.problems(op, digits=digits))  # 55 one-digit differences, for example
    drawn = cna.problems(op, digits=digits, n=min(n + SHOTS, there_are), seed=seed)
    asked, shots = drawn[SHOTS:], drawn[:SHOTS]
    ways: dict[str, dict[str, Any]] = {
        "bare": {"template": BARE},
        "question": {"template": ASKED[op]},
        "shots": {"template": BARE, "shots": shots},
    }
    return {name: cna.arithmetic_cases(model, asked, **way) for name, way in ways.items()}


def screened(model: Any, cases: list[Case], shown: int) -> dict[Head, float]:
    """Return the heads whose zeroing costs cases most log-probability, and the mean cost of each."""
    drops = [cna.head_effects(model, torch.tensor(c.tokens), c.answer, progress=False).drop for c in cases]
    mean = torch.stack(drops).mean(0)
    order = mean.flatten().argsort(descending=True).tolist()
    return {head: float(mean[head]) for head in (divmod(i, mean.shape[1]) for i in order[:shown])}


@torch.no_grad()
def outcomes(model: Any, cases: list[Case]) -> pd.DataFrame:
    """Return of each case whether its answer is the likeliest token, and its log-probability."""
    rows: dict[int, dict[str, float]] = {}
    for batch in case_batches(cases, batch_size=64):
        with unembedding_last(model, batch.tokens):
            log_probs = model(batch.tokens)[:, 0].log_softmax(-1)
        for i, left in zip(batch.indices, log_probs, strict=True):
            answer = cases[i].answer
            rows[i] = {"right": float(left.argmax() == answer), "log_prob": float(left[answer])}
    return pd.DataFrame.from_dict(rows, orient="index").sort_index()


def with_heads_zeroed(model: Any, cases: list[Case], heads: list[Head]) -> pd.DataFrame:
    """Return what zeroing each head takes from the cases that are answered without, by kind of digit."""
    first = [not case.given for case in cases]
    kinds = {"first token": first} | {kind: [case.kind == kind for case in cases] for kind in ("memorised", "carried")}
    before = outcomes(model, cases)
    rows: list[dict[str, Any]] = []
    for head in heads:
        with tna.ablate(model, [head]):
            after = outcomes(model, cases)
        row: dict[str, Any] = {"head": head_name(*head)}
        for kind, members in kinds.items():
            mine, left = (runs["right"][members].to_numpy() for runs in (before, after))
            if mine.sum():
                row[f"{kind}, % lost of {len(mine)}"] = decrease(mine, left)
        nats = (before["log_prob"] - after["log_prob"])[first]
        rows.append(row | {"first token, nats lost": shown_interval(*interval(nats), spec=".2f")})
    return pd.DataFrame(rows)


def decrease(before: Any, after: Any) -> str:
    """Return the share of a mean that is lost, in per cent, with its interval."""
    change, low, high = (0.0 - x for x in change_interval(before, after))
    return shown_interval(change, high, low, spec=".0f")


def accuracies(model: Any, options: argparse.Namespace) -> tuple[pd.DataFrame, dict[str, list[Case]]]:
    """Return how many answers are right in each way of asking, and the cases of the groups the model does."""
    rows: list[dict[str, Any]] = []
    cases: dict[str, list[Case]] = {}
    for group in [*options.groups, *options.answered]:
        ways = three_ways(model, group, options.screen + options.cases, options.seed)
        for name, some in ((name, ways[name]) for name in dict.fromkeys([*options.ways, options.prompt])):
            found = cna.whole_answers(model, some).summary().iloc[0].to_dict()
            right = {
                f"{what}, %": shown_interval(
                    100 * found[what], 100 * found[f"{what}_low"], 100 * found[f"{what}_high"], spec=".0f"
                )
                for what in ("first", "whole")
            }
            same = {"answers": found["answers"], "begin as another": found["shared"]}
            rows.append({"group": group, "prompt": name, **same, **right})
            if name == options.prompt and found["first"] >= options.least and group in options.groups:
                cases[group] = some
    return pd.DataFrame(rows), cases


def heads_of(model: Any, cases: list[Case], options: argparse.Namespace) -> pd.DataFrame:
    """Return what the best heads of some cases, those asked for and random ones cost other cases."""
    firsts = [case for case in cases if not case.given]
    known = [case for case, right in zip(firsts, cna.answered(model, firsts), strict=True) if right]
    on = known[: options.screen]
    best = screened(model, on, options.shown) if on else {}
    asked: list[Head] = required_heads(model, options.heads) if options.heads else []
    named = list(dict.fromkeys([*best, *asked]))
    every = [(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]
    drawn = Random(f"heads {options.seed}").sample([head for head in every if head not in named], options.shown)
    searched = {case.tokens for case in on}
    others = [case for case in cases if case.tokens[: len(case.tokens) - case.given] not in searched]
    frame = with_heads_zeroed(model, others, named + drawn)
    cost = [f"{best[head]:.2f}" if head in best else "" for head in named] + ["random head"] * len(drawn)
    return frame.assign(**{f"log p lost on {len(on)} others, nats": cost})


def sections(model: Any, options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Yield the tables with their titles."""
    frame, cases = accuracies(model, options)
    yield "Accuracy of first tokens and whole answers", markdown(frame)
    for group, some in cases.items():
        yield f"{group}, {options.prompt}: one head zeroed (Tables 1 to 3)", markdown(heads_of(model, some, options))


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--groups", nargs="+", default=list(GROUPS)[:5], choices=list(GROUPS))
    parser.add_argument("--answered", nargs="*", default=[], choices=list(GROUPS), help="only answered, no head zeroed")
    parser.add_argument("--prompt", default="question", choices=WAYS, help="the way in which heads are zeroed")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS, help="ways of asking that are compared")
    parser.add_argument("--cases", type=int, default=36, help="problems a group that heads are measured on")
    parser.add_argument("--screen", type=int, default=4, help="others on which every head is zeroed")
    parser.add_argument("--shown", type=int, default=5, help="heads a group, and as many random ones")
    parser.add_argument("--least", type=float, default=DOES_IT, help="first tokens right from which heads are searched")
    parser.add_argument("--heads", nargs="*", help="heads measured besides, such as L16H8")
    measure(parser, sections)


if __name__ == "__main__":
    main()
