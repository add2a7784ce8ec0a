"""Run paper 2's experiments on the demo model: ``python scripts/incontext_results.py --out docs/results/incontext.md``.

Which heads carry in-context classification, alone and in sets; what they copy; what moves when labels are reversed;
what their towers compare. Heads are found on one set of prompts and looked at on another. About ten minutes on a core.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tables import markdown

from tl_neuron_attr import demo
from tl_neuron_attr.incontext import (
    IclPrompt,
    InContextHeads,
    LearnedMetric,
    attention_shift,
    batch_of,
    from_demo,
    function_vector,
    in_context_heads,
    label_logit_difference,
    learned_metric,
    needed_by_towers,
    prefix_matching,
    two_towers,
    vector_effect,
)
from tl_neuron_attr.model.components import head_name
from tl_neuron_attr.results.intervals import interval, shown_interval
from tl_neuron_attr.results.table import Table

READERS = {"min_attention": 0.4}
"""The least attention to labels that makes a head a label reader here."""

READING: dict[str, Any] = {"combine": "rank", "causal": "log_odds"}
"""How the two scores are combined here: accuracy lost, the paper's causal score, is the same for most heads alone."""

SEARCHES: dict[str, dict[str, Any]] = {
    "all heads": {"search": 8},
    "layers 2 and deeper": {"search": 12, "layers": [2, 3, 4]},
    "heads that attend to labels": {"search": 12, **READERS},
}


@dataclass(frozen=True)
class Subject:
    """The prompts and heads that every section uses."""

    model: Any
    seen: list[IclPrompt]
    measured: list[IclPrompt]
    found: InContextHeads

    @property
    def best(self) -> tuple[int, int]:
        """Return the found head whose towers tell the classes apart best, on the prompts it was found on."""
        return learned_metric(self.model, self.seen, heads=self.found.heads).best


def shown(table: Table) -> str:
    """Return a result's own table as Markdown."""
    return f"{table.caption[:1].upper()}{table.caption[1:]}.\n\n" + markdown(
        pd.DataFrame(table.rows, columns=list(table.headings))
    )


def heads_section(subject: Subject) -> str:
    """Return the heads found, each alone, and what zeroing them together costs."""
    zeroed = subject.found.zeroed
    together = pd.DataFrame(
        {
            "zeroed": zeroed["zeroed"],
            "heads": zeroed["heads"],
            "accuracy": [shown_interval(*row) for row in zeroed[["accuracy", "low", "high"]].to_numpy()],
            **{f"where {w} is right": zeroed[f"accuracy_{w}"] for w in subject.found.labels},
        }
    )
    return (
        f"{shown(subject.found.table())}\n\nZeroed together, on the prompts they were not chosen on:\n\n"
        f"{markdown(together)}\n\nOther readings of how the two scores make one set:\n\n{readings(subject)}"
    )


def readings(subject: Subject) -> str:
    """Return what other readings of the paper's choice find, and what zeroing those heads costs."""
    rows: list[dict[str, Any]] = []
    for causal in ("accuracy", "log_odds"):
        for combine in ("rank", "union", "intersection"):
            options = {"causal": causal, "combine": combine, **READERS}
            found = in_context_heads(subject.model, subject.seen, n=len(subject.found.heads), **options)
            zeroed = found.zeroed.iloc[1]
            rows.append(
                {
                    "causal score": {"accuracy": "accuracy lost", "log_odds": "log-odds lost"}[causal],
                    "combined by": combine,
                    "heads": " ".join(head_name(layer, head) for layer, head in found.heads),
                    "accuracy without them": shown_interval(zeroed["accuracy"], zeroed["low"], zeroed["high"]),
                }
            )
    return markdown(pd.DataFrame(rows))


def sets_section(subject: Subject) -> str:
    """Return the smallest sets whose zeroing brings accuracy to chance, beside random sets of the same size."""
    rows: list[dict[str, Any]] = []
    for name, options in SEARCHES.items():
        result = in_context_heads(subject.model, subject.seen, among="labels", **READING, **options)
        for step in result.search.to_dict("records"):
            rows.append(
                {
                    "searched among": name,
                    "heads zeroed": int(step["size"]),
                    "added": f"L{step['layer']:.0f}H{step['head']:.0f}",
                    "accuracy": shown_interval(step["accuracy"], step["low"], step["high"], spec=".2f"),
                    "random sets: mean (least, greatest)": (
                        f"{step['random']:.2f} ({step['random_low']:.2f}, {step['random_high']:.2f})"
                    ),
                }
            )
    return f"Answers compared among the labels; chance is {result.chance:.2f}.\n\n" + markdown(pd.DataFrame(rows))


def copies_section(subject: Subject) -> str:
    """Return value-output label differences of the found heads, at the positions of each label."""
    prompts, (foo, bar) = subject.measured, subject.found.labels
    _, cache = subject.model.run_with_cache(batch_of(subject.model, prompts).tokens, names_filter=needed_by_towers)
    weighted, plain = (label_logit_difference(cache, prompts, weighted=w) for w in (True, False))
    sequence = torch.tensor([prompt.sequence for prompt in prompts])
    rows: list[dict[str, Any]] = []
    for layer, head in subject.found.heads:
        row: dict[str, Any] = {"head": head_name(layer, head)}
        for name, values in (("unweighted", plain), ("weighted", weighted)):
            own = values[:, layer, head]
            for i, word in enumerate((foo, bar)):
                there = sequence == i
                means = (own * there).sum(1) / there.sum(1)
                row[f"{name}, at {word}"] = shown_interval(*interval(pd.Series(means.tolist())), spec="+.2f")
        right = (plain[:, layer, head] > 0) == (sequence == 0)
        row["right sign"] = f"{100 * float(right.double().mean()):.1f} %"
        rows.append(row)
    return markdown(pd.DataFrame(rows))


def shift_section(subject: Subject) -> str:
    """Return attention, weighted and unweighted differences before and after labels are reversed."""
    return shown(attention_shift(subject.model, subject.measured, subject.found.heads).table())


def metric_section(subject: Subject) -> str:
    """Return the AUC of scores and of cosine before the towers, and of the found heads' scores summed."""
    everywhere = learned_metric(subject.model, subject.measured)
    found = LearnedMetric(everywhere.frame.merge(pd.DataFrame(subject.found.heads, columns=["layer", "head"])))
    pairs = found.frame.groupby(["prompt", "demonstration", "label", "same"])[["score", "cosine", "centred"]]
    joint = LearnedMetric(pairs.sum().reset_index().assign(layer=0, head=0)).summary().iloc[0]
    summary = everywhere.summary()
    layers = summary.groupby("layer").agg(
        cosine=("cosine_auc", "first"), centred=("centred_auc", "first"), best=("auc", "max"), mean=("auc", "mean")
    )
    layers.index = layers.index.astype(str)
    names = ["layer", "AUC of cosine", "of centred cosine", "of its best head's score", "of its heads' scores, mean"]
    return (
        f"{shown(found.table())}\n\nThe scores of these heads summed: AUC "
        f"{shown_interval(*joint[['auc', 'auc_low', 'auc_high']])}, right in {100 * joint['accuracy']:.1f} %. "
        f"Mean over all {len(summary)} heads: {summary['auc'].mean():.3f}. "
        "What each layer's towers read, and make of it:\n\n"
        f"{markdown(layers.reset_index().set_axis(names, axis=1))}"
    )


def split_section(subject: Subject) -> str:
    """Return what makes the best reader score demonstrations of the right class above others, by pair of components."""
    layer, head = subject.best
    prompts = subject.measured
    _, cache = subject.model.run_with_cache(batch_of(subject.model, prompts).tokens, names_filter=needed_by_towers)
    towers = two_towers(cache, prompts, layer=layer, head=head)
    same = torch.tensor([[label == prompt.gold for label in prompt.sequence] for prompt in prompts])
    share = torch.where(same, 1 / same.sum(1, keepdim=True), -1 / (~same).sum(1, keepdim=True))
    difference = torch.einsum("bl,blqk->bqk", share.to(towers.pairs), towers.pairs)
    names = towers.components
    frame = pd.DataFrame(difference.mean(0).tolist(), columns=list(names))
    frame.insert(0, "query side \\ key side", list(names))
    frame["sum"] = difference.sum(-1).mean(0).tolist()
    whole = interval(pd.Series(difference.sum((-1, -2)).tolist()))
    return (
        f"Head {head_name(layer, head)}: the score of a demonstration of the right class less that of another is "
        f"{shown_interval(*whole, spec='+.2f')}; its parts, means over {len(prompts)} prompts:\n\n{markdown(frame, 2)}"
    )


def induction_section(subject: Subject) -> str:
    """Return prefix matching beside the in-context scores, and the found heads' function vector."""
    matching = prefix_matching(subject.model)
    frame = subject.found.frame[subject.found.frame["found"]]
    columns = frame[["attention", "static", "causal", "log_odds"]].reset_index(drop=True)
    columns.insert(0, "head", [head_name(la, h) for la, h in subject.found.heads])
    columns["prefix matching"] = [float(matching[la, h]) for la, h in subject.found.heads]
    everywhere = torch.corrcoef(torch.stack([matching.flatten(), subject.found.scores("static").double().flatten()]))
    vector = function_vector(subject.model, subject.seen, subject.found.heads)
    effect = vector_effect(subject.model, subject.measured, vector)
    return (
        f"{markdown(columns)}\n\nOver all heads, prefix matching and the static score correlate with "
        f"{float(everywhere[0, 1]):+.2f}; the best prefix-matching head has {float(matching.max()):.3f}.\n\n"
        f"The mean output of the found heads, added to the same queries without demonstrations:\n\n"
        f"{shown(effect.table())}"
    )


SECTIONS: dict[str, Callable[[Subject], str]] = {
    "The heads (section on finding heads, Table 3)": heads_section,
    "Sets of heads": sets_section,
    "What they copy (Table 4)": copies_section,
    "Labels reversed (Tables 5 and 6)": shift_section,
    "Do the towers learn a metric": metric_section,
    "What the towers compare": split_section,
    "Induction heads and function vectors": induction_section,
}


def main() -> None:
    """Measure everything and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=200, help="in each of the two sets")
    parser.add_argument("--heads", type=int, default=6)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = demo.load()
    sets = [from_demo(model, demo.in_context(args.prompts, 4, counts=(2, 2), seed=seed)) for seed in (1, 2)]
    found = in_context_heads(model, sets[0], n=args.heads, **READING, **READERS)
    subject = Subject(model, *sets, found)
    text = "\n\n".join(f"### {title}\n\n{section(subject)}" for title, section in SECTIONS.items())
    args.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
