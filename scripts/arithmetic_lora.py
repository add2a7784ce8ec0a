"""Paper 3's fine-tuning and pruning on a real model that hardly calculates on the bare prompt: ``make results-real``.

Adapters of a few layers learn sums and differences of numbers below a hundred, negative results included. Whatever is
measured of an adapter is measured of a random change of the same size too. Every section is written when it is done.
"""

import argparse
from collections.abc import Iterator
from random import Random
from typing import Any

import pandas as pd
import torch
from tables import markdown, measure

from tl_neuron_attr import cna
from tl_neuron_attr.cna import Adapter, Case
from tl_neuron_attr.cna.coefficients import run_of
from tl_neuron_attr.cna.paired_runs import paired_changes, plain
from tl_neuron_attr.results.intervals import interval, shown_interval

KS = (50, 30, 20, 10)
"""The numbers of neurons of the paper's Table 10."""


def flags(model: Any, cases: list[Case], adapter: Adapter | None = None) -> pd.Series:
    """Return whether each case is answered, 1 or 0."""
    if adapter is None:
        return pd.Series(cna.answered(model, cases), dtype=float)
    with adapter.attached(model):
        return flags(model, cases)


@torch.no_grad()
def increases(model: Any, adapter: Adapter, cases: list[Case], batch_size: int) -> pd.DataFrame:
    """Return by how much each case's neurons' coefficients rise: one row per case, one column per number of neurons."""
    rows: dict[int, dict[int, float]] = {}
    runs = paired_changes(
        plain(model),
        run_of(model, adapter),
        cases,
        max(KS),
        largest=False,
        batch_size=batch_size,
        what="",
        progress=False,
    )
    for changed in runs:
        for k in KS:
            top = changed.neurons.top(k)
            before, after = top.coefficient, changed.other_coefficients(top)
            rise = (after.abs() - before * after.sign()).sum(1) / before.abs().sum(1)
            for case, value in zip(changed.indices, rise.tolist(), strict=True):
                rows.setdefault(case, {})[k] = 100 * value
    return pd.DataFrame.from_dict(rows, orient="index").sort_index()


def sections(model: Any, options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Yield the tables with their titles, those of several adapters anew with each."""
    of = {"train": options.train, "test": options.test, "seed": options.seed}
    train, test = cna.arithmetic_set(model, written=cna.written(), **of)
    some = Random(f"compared {options.seed}").sample(test, options.compared)
    training: dict[str, Any] = {
        "learning_rate": options.learning_rate,
        "steps": options.steps,
        "epochs": options.steps,  # the steps end it
        "batch_size": options.batch_size,
    }
    before = flags(model, test)
    answers, increased = (
        [{"adapter": "none", "right, %": shown_interval(*interval(100 * before), spec=".1f")}],
        list[dict[str, Any]](),
    )
    adapters: dict[int, Adapter] = {}
    first: dict[str, Any] = {}
    for layer in options.layers:
        adapter = cna.train_lora(model, train, layer=layer, seed=options.seed, progress=False, **training)
        adapters[layer] = adapter
        both = {"": adapter, ", random change": cna.random_adapter(adapter)}
        right = {name: flags(model, test, each) for name, each in both.items()}
        rise = {name: increases(model, each, some, options.batch_size) for name, each in both.items()}
        first = first or {"layer": layer, "right": right[""], "rise": rise[""]}
        answers += accuracies(layer, right, before, first)
        title = f"{len(train)} cases to train on, {options.steps} steps of {options.batch_size}; {len(test)} to test"
        yield title, markdown(pd.DataFrame(answers).fillna(""), 1)
        increased += table_10(layer, rise, first)
        body = f"{len(some)} cases, means over cases.\n\n{markdown(pd.DataFrame(increased))}"
        yield "Increase of coefficients, % (Table 10)", body
        yield "Coefficients on `3 + 5 =` (Table 9)", table_9(model, adapters)
        if options.top and layer == options.lora_layer:
            pruned = table_11(model, adapter, train, test, training, options)
            yield "Accuracy, %, with deep layers pruned (Table 11)", pruned


def accuracies(
    layer: int, right: dict[str, pd.Series], before: pd.Series, first: dict[str, Any]
) -> list[dict[str, str]]:
    """Return how many cases an adapter answers, and a random change; and how many more than none and the first."""
    rows: list[dict[str, str]] = []
    for name, found in right.items():
        rows.append({
            "adapter": f"layer {layer}{name}", "right, %": shown_interval(*interval(100 * found), spec=".1f"),
            "more than none": shown_interval(*interval(100 * (found - before)), spec=".1f"),
        })  # fmt: skip
    if layer != first["layer"]:
        rows[0][f"more than layer {first['layer']}"] = shown_interval(
            *interval(100 * (right[""] - first["right"])), spec=".1f"
        )
    return rows


def table_9(model: Any, adapters: dict[int, Adapter]) -> str:
    """Return the coefficients of the neurons that the adapted models use more, in the paper's case."""
    case = cna.arithmetic_cases(model, [cna.Problem(3, "+", 5)], written=cna.written())[-1]
    others = {f"layer {layer}": adapter for layer, adapter in adapters.items()}
    said = {f"layer {layer}": bool(flags(model, [case], adapter)[0]) for layer, adapter in adapters.items()}
    right = [name for name, answers in said.items() if answers]
    found = cna.neuron_coefficients(model, others, case, k=5)
    plainly = "answers" if flags(model, [case])[0] else "does not answer"
    return f"The model {plainly} 8; adapted, with: {', '.join(right) or 'none'}.\n\n{markdown(found, 2)}"


def table_10(layer: int, rise: dict[str, pd.DataFrame], first: dict[str, Any]) -> list[dict[str, str]]:
    """Return how much coefficients rise with an adapter, with a random change, and the differences."""
    trained, chance = rise.values()
    named = {**rise, ", more than at random": trained - chance}
    if layer != first["layer"]:
        named[f", more than layer {first['layer']}"] = trained - first["rise"]
    return [
        {
            "adapter": f"layer {layer}{name}",
            **{f"top {k}": shown_interval(*interval(values[k]), spec=".0f") for k in KS},
        }
        for name, values in named.items()
    ]


def table_11(
    model: Any,
    adapter: Adapter,
    train: list[Case],
    test: list[Case],
    training: dict[str, Any],
    options: argparse.Namespace,
) -> str:
    """Return accuracies with the deep layers pruned to the neurons an adapter amplifies, or to random ones."""
    deep = list(range(*options.pruned))
    found = cna.pruning_experiment(
        model,
        train,
        test,
        layers=deep,
        lora_layer=options.lora_layer,
        top=options.top,
        search=Random(f"search {options.seed}").sample(train, options.search),
        adapter=adapter,
        seed=options.seed,
        progress=False,
        **training,
    )
    of_all = found.frame[found.frame["group"] == "all"]
    rows = [
        {"model": model_name, "right, %": shown_interval(*interval(_flags_of(100 * share, n)), spec=".1f")}
        for model_name, share, n in of_all[["model", "accuracy", "cases"]].itertuples(index=False)
    ]
    kept = f"Layers {deep[0]} to {deep[-1]}, {100 * found.share:.1f} % of their neurons kept"
    how = f"the first {options.top} of {options.search} training cases; adapters in layer {options.lora_layer}"
    return f"{kept}: {how}.\n\n{markdown(pd.DataFrame(rows))}"


def _flags_of(percent: float, n: int) -> pd.Series:
    """Return 100 for every right case and 0 for every wrong one, given their number and share."""
    right = round(percent * n / 100)
    return pd.Series([100.0] * right + [0.0] * (n - right))


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--layers", type=int, nargs="+", default=[8, 3, 20], help="layers adapted, one at a time")
    parser.add_argument("--train", type=int, default=4000, help="problems to train on")
    parser.add_argument("--test", type=int, default=100, help="problems to test on")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--compared", type=int, default=32, help="test cases on which coefficients are compared")
    parser.add_argument("--lora-layer", type=int, default=8, help="the layer adapted after pruning")
    parser.add_argument("--pruned", type=int, nargs=2, default=[16, 30], help="the first layer pruned, and the end")
    parser.add_argument("--top", type=int, default=500, help="neurons a case that are kept; 0 leaves pruning out")
    parser.add_argument("--search", type=int, default=32, help="training cases whose neurons are kept")
    measure(parser, sections)


if __name__ == "__main__":
    main()
