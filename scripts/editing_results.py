"""Run paper 3's LoRA, pruning and editing: ``python scripts/editing_results.py --out docs/results/editing.md``.

On the bundled model:

1. An adapter of each attention layer is trained on the arithmetic set: accuracies, Tables 9 and 10.
2. The deep layers are pruned to the neurons an adapter amplifies, or to random ones, and fine-tuned: Table 11.
3. The neurons of the bias of occupations are zeroed: Table 13, with a guard on everything else.

Seeded; about eight minutes on one core. Guards that choose neurons use the tuning split, reported guards the held-out
split and fresh rows of text.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import torch
from tables import markdown

from tl_neuron_attr import cna, demo, vis
from tl_neuron_attr.cna import Case, Guard
from tl_neuron_attr.cna.arithmetic_set import NEGATIVE
from tl_neuron_attr.demo import gender
from tl_neuron_attr.demo.training_rows import mixture_at, row
from tl_neuron_attr.demo.world_vocabulary import IDS

DEEP, TOPS = (3, 4), (3, 10)
NEURONS, CANDIDATES = 18, 30
SIDES = ("she", "he")
COMPARED, SEARCHED = 200, 1000
Tables = dict[str, str]


@dataclass(frozen=True)
class Training:
    """Settings of the adapters' training."""

    steps: int
    seed: int
    learning_rate: float = 5e-3
    train: int = 9000
    test: int = 1000


def percent(frame: pd.DataFrame, columns: Sequence[Any]) -> pd.DataFrame:
    """Return some columns in per cent."""
    return frame.assign(**{str(c): 100 * frame[c] for c in columns})


def lora(model: Any, train: list[Case], test: list[Case], training: Training) -> tuple[Tables, Mapping[str, Any]]:
    """Return what one adapter per layer gives: Tables 9 and 10."""
    adapters = {
        f"layer {layer}": cna.train_lora(
            model,
            train,
            layer=layer,
            learning_rate=training.learning_rate,
            steps=training.steps,
            seed=training.seed,
        )
        for layer in range(model.cfg.n_layers)
    }
    rows = [{"adapter": "none", **shares(model, test)}]
    for name, adapter in adapters.items():
        with adapter.attached(model):
            rows.append({"adapter": name, **shares(model, test)})
    frame = percent(pd.DataFrame(rows), ["all", "not negative", "negative"])
    sample = Random(f"compared {training.seed}").sample
    groups = {
        "answers the original gets right": [c for c in test if c.group != NEGATIVE],
        "negative results, which it never does": [c for c in test if c.group == NEGATIVE],
    }
    tables = {"Accuracy with an adapter in one attention layer, %": markdown(frame, 1)}
    for name, cases in groups.items():
        found = cna.coefficient_increase(model, adapters, sample(cases, min(COMPARED, len(cases))))
        tables[f"Increase of coefficients, %, {name} (Table 10)"] = markdown(beside_control(found), 1)
    case = cna.arithmetic_cases(model, [cna.Problem(3, "+", 5)])[0]
    tables["Coefficients on `3 + 5 =` (Table 9)"] = markdown(cna.neuron_coefficients(model, adapters, case, k=5), 2)
    return tables, adapters


def beside_control(found: cna.CoefficientIncrease) -> pd.DataFrame:
    """Return Table 10 in per cent, each adapter's row above that of the random change of the same size."""
    rows = [
        {
            "model": name,
            "change": change,
            **{f"top {k}": 100 * increase for k, increase in zip(of["k"], of[column], strict=True)},
        }
        for name, of in found.frame.groupby("model", sort=False)
        for change, column in (("trained", "increase"), ("random", "control"))
    ]
    return pd.DataFrame(rows)


def shares(model: Any, cases: Sequence[Case]) -> dict[str, float]:
    """Return the share of right answers, in all and by the sign of the result."""
    right = cna.answered(model, cases)
    below = [case.group == NEGATIVE for case in cases]
    parts = {"all": right, "not negative": [r for r, b in zip(right, below, strict=True) if not b]}
    parts["negative"] = [r for r, b in zip(right, below, strict=True) if b]
    return {name: sum(part) / len(part) for name, part in parts.items()}


def pruning(model: Any, train: list[Case], test: list[Case], adapters: Mapping[str, Any], training: Training) -> Tables:
    """Return Table 11, with the adapter of the lowest training loss; neurons are searched in training cases."""
    best = min(adapters.values(), key=lambda adapter: sum(adapter.losses[-50:]))
    search = Random(f"search {training.seed}").sample(train, min(SEARCHED, len(train)))
    merged = [replace(case, group="negative" if case.group == NEGATIVE else "not negative") for case in test]
    rows: list[dict[str, Any]] = []
    for top in TOPS:
        found = cna.pruning_experiment(
            model,
            train,
            merged,
            layers=list(DEEP),
            lora_layer=best.layer,
            top=top,
            search=search,
            adapter=best,
            seed=training.seed,
            learning_rate=training.learning_rate,
            steps=training.steps,
        )
        wide = (100 * found.wide()["all"]).to_dict()
        kept = f"{100 * found.share:.0f} %"
        rows.append({"top a case": top, "kept": kept, **{str(name): value for name, value in wide.items()}})
    return {
        f"Accuracy, %, layers 3 and 4 pruned, adapters in layer {best.layer} (Table 11)": markdown(
            pd.DataFrame(rows), 1
        )
    }


def occupations(low: float, high: float) -> list[str]:
    """Return the occupations whose share of *she* lies between two bounds."""
    return [word for word, share in gender.SHARES.items() if low < share < high]


def pairs(templates: Sequence[str], first: Sequence[str], second: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of prompts about two occupations."""
    return [(t.format(a), t.format(b)) for t in templates for a, b in zip(first, second, strict=True)]


def guard(model: Any, split: str, seed: int) -> Guard:
    """Return facts and arithmetic of a split, and rows of text drawn for it."""
    rng = Random(f"{split} text {seed}")
    texts = [torch.tensor([IDS[t.word] for t in row(rng, mixture_at(1.0), 48)]) for _ in range(100)]
    facts, sums = demo.facts(split=split), demo.arithmetic(split=split)  # pyright: ignore[reportArgumentType]
    return Guard({"facts": cna.prompt_cases(model, facts), "arithmetic": cna.prompt_cases(model, sums)}, texts)


def bias(model: Any, seed: int) -> tuple[Tables, Any]:
    """Return Table 13: the bias of occupations before and after an edit."""
    women, men = occupations(0.9, 1), occupations(0, 0.1)
    found_on = pairs(gender.OCCUPATION_TEMPLATES[:1], women, men)
    elsewhere = (*gender.OCCUPATION_TEMPLATES[1:], *gender.NEW_OCCUPATION_TEMPLATES)
    asked = pairs(elsewhere, women, men)
    names = [f"{a}, {b}" for _ in elsewhere for a, b in zip(women, men, strict=True)]
    others = pairs(elsewhere, occupations(0.6, 0.9), occupations(0.1, 0.4))
    reported, choosing = guard(model, "held_out", seed), guard(model, "tuning", seed)
    candidates = cna.bias_neurons(model, found_on, SIDES, CANDIDATES, sites=("attn",))
    edits = {
        f"{NEURONS} MLP neurons": cna.bias_neurons(model, found_on, SIDES, NEURONS),
        f"{NEURONS} MLP neurons, against the other pronoun": cna.bias_neurons(
            model, found_on, SIDES, NEURONS, contrasts=SIDES[::-1]
        ),
        f"{NEURONS} attention neurons": candidates.top(NEURONS),
        f"{CANDIDATES} attention neurons": candidates,
        "those of the 30 that pass the guard": cna.safe_neurons(model, candidates, choosing).neurons,
    }
    rows: list[dict[str, Any]] = []
    reports = [
        cna.bias_report(model, neurons, asked, SIDES, guard=reported, sides=SIDES, names=names, found_on=found_on)
        for neurons in edits.values()
    ]
    for (name, neurons), report in zip(edits.items(), reports, strict=True):
        measured, by = report.capabilities.set_index("measure"), report.by().set_index("towards")
        if not rows:
            rows.append({"zeroed": "nothing", "n": 0, **by["before"].to_dict()} | in_percent(measured["before"]))
        less = {
            "less, %": report.decrease,
            "other occupations": cna.bias_report(model, neurons, others, SIDES).decrease,
            "prompts of the search": cna.bias_report(model, neurons, found_on, SIDES).decrease,
        }
        shares = {key: 100 * value for key, value in less.items()}
        rows.append(
            {"zeroed": name, "n": len(neurons)} | by["after"].to_dict() | shares | in_percent(measured["after"])
        )
    columns = list(rows[1])
    by_pair = percent(reports[-1].by("pair"), ["decrease"]).rename(columns={"decrease": "less, %"})
    return {
        "Bias before and after, nats (Table 13), and what else changes": markdown(
            pd.DataFrame(rows, columns=columns).fillna(0), 2
        ),
        "By occupations, with the neurons that pass the guard": markdown(by_pair, 2),
    }, reports[-1]


def in_percent(measured: pd.Series) -> dict[str, float]:
    return {
        str(name) if name == "perplexity" else f"{name}, %": float(value) * (1 if name == "perplexity" else 100)
        for name, value in measured.items()
    }


def write(path: Path, sections: Tables) -> None:
    """Write the tables with their titles."""
    path.write_text("\n\n".join(f"### {title}\n\n{text}" for title, text in sections.items()) + "\n")


def main() -> None:
    """Measure everything and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--views", type=Path, help="a folder for the views")
    parser.add_argument("--steps", type=int, default=400, help="training steps of an adapter")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, training = demo.load(), Training(args.steps, args.seed)
    train, test = cna.arithmetic_set(model, train=training.train, test=training.test, seed=args.seed)
    sections, adapters = lora(model, train, test, training)
    write(args.out, sections)  # a run that is stopped leaves what it had
    sections |= pruning(model, train, test, adapters, training)
    write(args.out, sections)
    edited, report = bias(model, args.seed)
    write(args.out, sections | edited)
    if args.views:
        args.views.mkdir(exist_ok=True)
        vis.bias(report).save(args.views / "bias.html")
        shown = Random(args.seed).sample(test, COMPARED)
        vis.coefficients(cna.coefficient_increase(model, adapters, shown)).save(args.views / "coefficients.html")


if __name__ == "__main__":
    main()
