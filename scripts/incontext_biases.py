"""Measure paper 2's two biases on the bundled model.

    python scripts/incontext_biases.py --out docs/results/incontext_biases.md

Heads are found on prompts of their own; the biases are measured on fresh ones before and after their corrections,
beside the paper's figures; then other readings of the formulas, other heads and other numbers of demonstrations. About
fifteen minutes on one core.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from tl_neuron_attr import demo
from tl_neuron_attr.incontext import (
    IclBiases,
    IclPrompt,
    arranged,
    batch_of,
    from_demo,
    icl_biases,
    in_context_heads,
    label_attention,
    majority_correction,
    position_free_attention,
)
from tl_neuron_attr.model.components import head_name
from tl_neuron_attr.results.intervals import shown_interval

PROMPTS, FEWER = 1200, 400
FIND, MEASURE = 7, 8
PAPER = {
    ("majority", "fluctuation"): "-22 (Llama-7B -29.1, GPT-J -14.9)",
    ("recency", "deviation"): "-17 (Llama-7B -23.4, GPT-J -10.6)",
    ("recency", "attention deviation"): "about -40 (Llama-7B -40.1, GPT-J -37.7)",
}
NAMES = {
    "accuracy": "accuracy",
    "in vocabulary": "accuracy over the vocabulary",
    "among labels": "accuracy among the labels",
    "log-odds": "log-odds of the right label, nats",
    "fluctuation": "accuracy fluctuation, a demonstration removed",
    "gap": "the removed label loses, the other gains",
    "deviation": "standard deviation of accuracy over orders",
    "attention": "attention to a label in the heads",
    "attention deviation": "its standard deviation over orders",
}


def number(row: dict[Any, Any], name: str, style: str) -> str:
    """Return a value with its interval."""
    return shown_interval(*(row[f"{name}{end}"] for end in ("", "_low", "_high")), spec=style)


def main_table(report: IclBiases) -> str:
    """Return every measure before and after, the change in per cent, and the paper's change where it gives one."""
    rows = [
        {
            "bias": row["bias"],
            "measure": NAMES[row["measure"]],
            "right label": row["gold"],
            "before": number(row, "before", ".4f"),
            "after": number(row, "after", ".4f"),
            "change, %": number(row, "change", "+.1f"),
            "paper, %": PAPER.get((row["bias"], row["measure"]), "") if row["gold"] == "all" else "",
        }
        for row in report.to_frame().to_dict("records")
    ]
    return pd.DataFrame(rows).to_markdown(index=False)


def cells(frame: pd.DataFrame, by: str) -> str:
    """Return accuracies or their changes by right label, before and after."""
    shown = frame.assign(value=[number(row, "value", "+.4f" if by == "removed" else ".4f") for row in renamed(frame)])
    wide = shown.pivot(index=["gold", by], columns="when", values="value")[["before", "after"]]
    return wide.reset_index().to_markdown(index=False)


def renamed(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    """Return rows with the names that :func:`number` takes."""
    return frame.rename(columns={"low": "value_low", "high": "value_high"}).to_dict("records")


def one_line(name: str, report: IclBiases) -> dict[str, str]:
    """Return a variant's main numbers: both biases by label, and what the correction costs."""
    gap, fluctuation = report.value("majority", "gap"), report.value("majority", "fluctuation")
    deviation, attention = report.value("recency", "deviation"), report.value("recency", "attention deviation", "all")
    return {
        "variant": name,
        "fluctuation": f"{fluctuation['before']:.4f} to {fluctuation['after']:.4f}",
        "%": number(fluctuation, "change", "+.0f"),
        "gap, %": number(gap, "change", "+.0f"),
        "deviation": f"{deviation['before']:.4f} to {deviation['after']:.4f}",
        "% ": number(deviation, "change", "+.0f"),
        "attention deviation, %": number(attention, "change", "+.0f"),
        "accuracy over orders": f"{report.value('recency', 'accuracy', 'all')['after']:.3f}",
    }


def variants(model: Any, heads: Sequence[tuple[int, int]], readers: Sequence[tuple[int, int]], n: int) -> str:
    """Return other readings of both formulas, other heads and other numbers of demonstrations."""
    four, six = (from_demo(model, demo.in_context(n, k, counts=(k // 2, k // 2), seed=MEASURE)) for k in (4, 6))
    everywhere = [(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]

    def measured(name: str, chosen: Sequence[tuple[int, int]] = heads, prompts: Any = four, **ways: Any) -> Any:
        raised, freed = ways.get("majority", {}), ways.get("recency", {})
        at_all = freed.pop("everywhere", False)

        def free(group: Any) -> Any:
            return position_free_attention(model, chosen, prompts=None if at_all else group, **freed)

        majority = partial(majority_correction, model, heads=chosen, **raised)
        return one_line(name, icl_biases(model, prompts, chosen, majority=majority, recency=free, progress=False))

    rows = [
        measured("as the paper"),
        measured("a_c = 0.1; queries of all positions", majority={"a_c": 0.1}, recency={"everywhere": True}),
        measured("a_c = 0.2; half of the new attention", majority={"a_c": 0.2}, recency={"share": 0.5}),
        measured("added to the heads; as the paper", majority={"where": "heads"}),
        measured("attention renormalised; as the paper", majority={"renormalised": True}),
        measured(f"all {len(readers)} heads of layers 2 to 4 that attend to labels", readers),
        measured("all heads of the model", everywhere),
        measured("six demonstrations", prompts=six),
    ]
    return pd.DataFrame(rows).to_markdown(index=False)


@torch.no_grad()
def late_label_preference(model: Any, prompts: Sequence[IclPrompt], heads: Sequence[tuple[int, int]]) -> str:
    """Return how much more each head attends to a late label than to an early one, with and without positions."""
    found: dict[str, list[torch.Tensor]] = {"before": [], "after": []}
    for sequence in ((0, 0, 1, 1), (1, 1, 0, 0)):
        group = arranged(model, prompts, sequence)
        for when, hooks in (("before", []), ("after", position_free_attention(model, heads, prompts=group))):
            with model.hooks(fwd_hooks=hooks):
                _, cache = model.run_with_cache(batch_of(model, group).tokens)
            attention = label_attention(cache, group)
            found[when].append((attention[..., 2:] - attention[..., :2]).mean((0, 3)))
    before, after = (torch.stack(found[when]).mean(0) for when in ("before", "after"))
    rows = [
        {
            "head": head_name(layer, head),
            "late less early": float(before[layer, head]),
            "corrected": float(after[layer, head]),
        }
        for layer, head in heads
    ]
    return pd.DataFrame(rows).sort_values("late less early", ascending=False).to_markdown(index=False, floatfmt="+.3f")


def main() -> None:
    """Measure everything and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--fewer", type=int, default=FEWER, help=f"prompts of the other readings ({FEWER})")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = demo.load()
    found = in_context_heads(
        model, from_demo(model, demo.in_context(400, 4, counts=(2, 2), seed=FIND)), causal="log_odds",
        layers=[2, 3, 4], min_attention=0.3,
    )  # fmt: skip
    candidates = found.frame[found.frame["candidate"]]
    readers = list(zip(candidates["layer"].tolist(), candidates["head"].tolist(), strict=True))
    prompts = from_demo(model, demo.in_context(args.prompts, 4, counts=(2, 2), seed=MEASURE))
    report, wide = icl_biases(model, prompts, found.heads), icl_biases(model, prompts, readers)
    names = ", ".join(head_name(layer, head) for layer, head in found.heads)
    measured = f"{args.prompts} prompts, 2 + 2 demonstrations"
    sections = {
        f"All {len(readers)} label readers of layers 2 to 4 corrected ({measured})": main_table(wide),
        f"The {len(found.heads)} in-context heads found corrected ({measured}; {names})": main_table(report),
        "Which heads prefer late labels (attention from the last position, mean)": late_label_preference(
            model, prompts[: args.fewer], readers
        ),
        "Change of accuracy when one demonstration is removed (label readers)": cells(wide.changes, "removed"),
        "Accuracy by order (label readers)": cells(wide.orders, "order"),
        f"Other readings, heads and numbers of demonstrations ({args.fewer} prompts; means of both labels)": variants(
            model, found.heads, readers, args.fewer
        ),
    }
    args.out.write_text("\n\n".join(f"### {title}\n\n{text}" for title, text in sections.items()) + "\n")
    print(wide)


if __name__ == "__main__":
    main()
