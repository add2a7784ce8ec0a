"""The neurons of paper 3 on a real model that calculates, case by case, with controls: ``make results-real``.

Heads are chosen on some problems of a group and everything is measured on others, of which only those are taken that
the model answers. Each group is written when it is done, so that a run that is stopped leaves what it had.
"""

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from arithmetic_real import ASKED, BARE, GROUPS, SHOTS
from tables import markdown, measure
from torch import Tensor

import tl_neuron_attr as tna
from tl_neuron_attr import cna
from tl_neuron_attr.cna import Case
from tl_neuron_attr.cna.feature_predicting import coefficient_drop
from tl_neuron_attr.cna.paired_runs import ChangedCases, mlp_coefficients, paired_changes, plain, zeroing
from tl_neuron_attr.cna.selection import random_neurons, roots, selected
from tl_neuron_attr.evaluate import estimate_effects
from tl_neuron_attr.model.components import Head, head_name
from tl_neuron_attr.results.intervals import change_interval, interval, shown_interval
from tl_neuron_attr.results.neurons import Neurons

KS = (99, 30, 10)
"""Three of the paper's five: the others lie between."""

BATCH = 8
"""Cases in one forward pass: more do not run faster on one thread, and need more memory."""

FOUND, RANDOM, GRADIENT = "largest change", "random", "largest gradient estimate"


@torch.no_grad()
def chosen_head(model: Any, cases: list[Case], asked: str | None) -> tuple[Head, float]:
    """Return the head asked for, or the one whose zeroing costs most log-probability, and how much, in nats."""
    tokens, answers = torch.tensor([case.tokens for case in cases]), [case.answer for case in cases]
    effects = cna.head_effects(model, tokens, answers, heads=[asked] if asked else None, progress=False)
    head = effects.ranked()[0]
    return head, float(effects.drop[:, head[0], head[1]].mean())


def estimated(model: Any, changed: ChangedCases, layers: range) -> Neurons:
    """Return the neurons of ``layers`` whose effect at the last position is estimated largest, most first."""
    effects = estimate_effects(model, changed.tokens, changed.answers.tolist(), positions="scored").mlp_neurons
    best = effects[:, layers.start :].flatten(1).topk(max(KS))
    width = effects.shape[-1]
    layer, index = layers.start + best.indices // width, best.indices % width
    case = torch.arange(len(index))[:, None]
    return Neurons.of_mlp(layer, index, coefficient=changed.coefficient[case, layer, index], score=best.values)


def others_lost(model: Any, tokens: Tensor, zeroed: Neurons, top: Neurons) -> Tensor:
    """Return the share of their coefficients that neurons lose when one of each case is zeroed, that one left out."""
    after, case = mlp_coefficients(zeroing(model, zeroed)(tokens)), torch.arange(len(tokens))[:, None]
    others = (top.layer != zeroed.layer) | (top.index != zeroed.index)
    return coefficient_drop(top.coefficient * others, after[case, top.layer, top.index] * others)


def of_batch(model: Any, changed: ChangedCases, layers: range, seed: int) -> Iterator[dict[str, Any]]:
    """Yield what each case is left with: one row per case, intervention, kind of neuron and number of neurons."""
    tokens, answers = changed.tokens, changed.answers
    allowed = torch.tensor([layer in layers for layer in range(model.cfg.n_layers)])[:, None]

    def noted(what: str, name: str, k: int) -> Iterator[dict[str, Any]]:
        left = model(tokens)[:, -1].log_softmax(-1)
        chosen = left.gather(1, answers[:, None])[:, 0].tolist()
        for case, right, log_prob in zip(changed.indices, (left.argmax(-1) == answers).tolist(), chosen, strict=True):
            yield {"what": what, "neurons": name, "k": k, "case": case, "right": right, "log_prob": log_prob}

    yield from noted("untouched", "", 0)
    drawn = random_neurons(changed.coefficient, allowed, max(KS), changed.indices, seed)
    kinds = {FOUND: changed.neurons, RANDOM: drawn, GRADIENT: estimated(model, changed, layers)}
    for k in KS:
        for name, neurons in kinds.items():
            top = neurons.top(k)
            with tna.ablate(model, top):
                yield from noted("mask", name, k)
            with tna.keep(model, top, layers=list(layers)):
                yield from noted("keep", name, k)
            for case, share in zip(changed.indices, coefficient_drop(
                top.coefficient, changed.other_coefficients(top)
            ).tolist(), strict=True):  # fmt: skip
                yield {"what": "coef", "neurons": name, "k": k, "case": case, "share": share}
        top = changed.neurons.top(k)
        root = selected(top, roots(top)[:, None])
        beside = torch.zeros_like(changed.coefficient, dtype=torch.bool)
        case = torch.arange(len(tokens))[:, None]
        beside[case, root.layer] = True
        beside[case, top.layer, top.index] = False
        control = random_neurons(changed.coefficient, beside, 1, changed.indices, seed)
        for name, zeroed in ((FOUND, root), (RANDOM, control)):
            lost = others_lost(model, tokens, zeroed, top).tolist()
            yield from (
                {"what": "root", "neurons": name, "k": k, "case": i, "share": share}
                for i, share in zip(changed.indices, lost, strict=True)
            )


def measured(model: Any, cases: list[Case], head: Head, seed: int) -> pd.DataFrame:
    """Return the rows of all cases."""
    layers = range(head[0], model.cfg.n_layers)
    runs = paired_changes(
        plain(model), zeroing(model, [head]), cases, max(KS), layers=layers, batch_size=BATCH, what="", progress=False
    )
    with torch.no_grad():
        return pd.DataFrame([row for changed in runs for row in of_batch(model, changed, layers, seed)])


def summary(rows: pd.DataFrame) -> str:
    """Return paper 3, Tables 5 and 6: what is lost, with intervals over cases, paired with the untouched model."""
    before = rows[rows["what"] == "untouched"].set_index("case")
    runs: list[dict[str, Any]] = []
    shares: list[dict[str, Any]] = []
    for (what, name), some in rows[rows["what"] != "untouched"].groupby(["what", "neurons"], sort=False):
        by_k = {k: part.set_index("case").loc[before.index] for k, part in some.groupby("k", sort=False)}
        if what in ("mask", "keep"):
            right = {f"{k}: answers, %": _lost(before["right"], part["right"]) for k, part in by_k.items()}
            nats = {f"{k}: nats": before["log_prob"] - part["log_prob"] for k, part in by_k.items()}
            lost = {column: shown_interval(*interval(values), spec=".2f") for column, values in nats.items()}
            runs.append({"": what, "neurons": name, **right, **lost})
        else:
            cells = {f"{k}: %": shown_interval(*interval(100 * part["share"]), spec=".1f") for k, part in by_k.items()}
            shares.append({"": what, "neurons": name, **cells})
    tables = (pd.DataFrame(each).sort_values("", ascending=turned, kind="stable") for each, turned in (
        (runs, False), (shares, True)
    ))  # fmt: skip
    return "Lost:\n\n{}\n\nCoefficients lost:\n\n{}".format(*map(markdown, tables))


def _lost(before: pd.Series, after: pd.Series) -> str:
    """Return the share of answers lost, in per cent, with its interval."""
    change, low, high = (0.0 - x for x in change_interval(before.to_numpy(float), after.to_numpy(float)))
    return shown_interval(change, high, low, spec=".0f")


def chains(model: Any, groups: dict[str, list[Case]], head: str | None) -> pd.DataFrame:
    """Return what logic chains explain of the effect of their heads, case by case."""
    rows: list[dict[str, Any]] = []
    for group, cases in groups.items():
        for case in cases:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a chain that explains little says so, and is counted here
                chain = cna.logic_chain(model, torch.tensor(case.tokens), case.answer, head=head)
            predicting = chain.feature_predicting
            rows.append({
                "group": group, "problem": "".join(chain.tokens), "head": head_name(*chain.head),
                "head's drop, nats": float(predicting.effects.drop[chain.head]), "explained": chain.explained,
                "root": chain.prediction_enhancing.root_neuron.labels[0],
            })  # fmt: skip
            print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def known_cases(model: Any, group: str, n: int, seed: int, prompt: str) -> list[Case]:
    """Return at most ``n`` first tokens of answers that the model gives right, of problems asked in one way."""
    op, digits = GROUPS[group]
    some = cna.problems(op, digits=digits, n=min(2 * n, len(cna.problems(op, digits=digits))), seed=seed)
    way: dict[str, Any] = {"template": ASKED[op]}
    if prompt == "shots":
        way = {"template": BARE, "shots": some[:SHOTS]}
        some = some[SHOTS:]
    cases = [case for case in cna.arithmetic_cases(model, some, **way) if not case.given]
    return [case for case, right in zip(cases, cna.answered(model, cases), strict=True) if right][:n]


def sections(model: Any, options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Yield the tables with their titles."""
    measured_on: dict[str, list[Case]] = {}
    for group in options.groups:
        known = known_cases(model, group, options.screen + options.cases, options.seed, options.prompt)
        screen, cases = known[: options.screen], known[options.screen :]
        measured_on[group] = cases
        if options.cases:
            head, cost = chosen_head(model, screen, options.head)
            rows = measured(model, cases, head, options.seed)
            if options.rows is not None:
                rows.to_csv(options.rows / f"{group}.csv", index=False)
            how = f"{len(cases)} cases; {head_name(*head)} costs {cost:.2f} nats on {len(screen)} others"
            yield f"{group}: {how}", summary(rows)
    if options.chains:
        some = {
            group: known_cases(model, group, options.chains, options.seed + 1, options.prompt)
            for group in options.groups
        }
        frame = chains(model, some, options.head)
        shares = frame[frame["explained"].notna()]  # where zeroing the head costs nothing there is nothing to explain
        kept = shares.assign(kept=shares["head's drop, nats"] * shares["explained"])
        sums = kept.groupby("group", sort=False)[["head's drop, nats", "kept"]].sum()
        means = pd.DataFrame({"explained of all, %": 100 * sums["kept"] / sums["head's drop, nats"]})
        yield (
            "Logic chains: the share of the head's effect that their deep neurons have alone",
            f"{markdown(means.reset_index(), 0)}\n\n{markdown(frame, 2)}",
        )


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--groups", nargs="+", default=["2D-", "1D-", "1D+", "1D*", "2D+"])
    parser.add_argument("--prompt", default="question", choices=["question", "shots"], help="how problems are asked")
    parser.add_argument("--cases", type=int, default=20, help="cases a group that neurons are measured on")
    parser.add_argument("--screen", type=int, default=4, help="other cases a group that the head is chosen on")
    parser.add_argument("--head", help="the head, such as L16H8; by default the one that costs the others most")
    parser.add_argument("--chains", type=int, default=0, help="logic chains a group")
    parser.add_argument("--rows", type=Path, help="a folder for the rows of every case, as CSV")
    measure(parser, sections)


if __name__ == "__main__":
    main()
