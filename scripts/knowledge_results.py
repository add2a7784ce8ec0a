"""Run paper 1's experiments on the demo model: ``python scripts/knowledge_results.py --out docs/results/knowledge.md``.

Which score picks the neurons that matter (Table 2), in each type of knowledge and over the number of neurons; and where
the six types live (Tables 3 to 14). About ten minutes on one core; the prompts are held out from training.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
from tables import markdown

from tl_neuron_attr import demo
from tl_neuron_attr.evaluate import Faithfulness, facts, faithfulness, knowledge_study
from tl_neuron_attr.results.intervals import shown_interval

PER_TYPE = 30
CURVE = (1, 3, 10, 30, 100)
NAMES = {"log_prob": "log-probability, nats", "reciprocal_rank": "MRR", "prob": "probability"}


def table_2(found: Faithfulness) -> str:
    """Return the paper's Table 2, with means and intervals."""
    rows = found.summary()
    cells = {
        name: [shown_interval(*row) for row in rows[[c, f"{c}_low", f"{c}_high"]].to_numpy()]
        for name, c in (("MRR", "reciprocal_rank"), ("probability", "prob"), ("log-probability", "log_prob"))
    }
    return markdown(pd.DataFrame({"score": rows["score"], **cells}))


def by_type(found: Faithfulness, types: list[str]) -> str:
    """Return the mean log-probability after zeroing ten neurons, one column per type; the lowest is marked."""
    kind = found.frame["prompt"].map(dict(enumerate(types)))
    chosen = found.frame.assign(type=kind)[lambda f: f["k"].isin([0, found.k])]
    wide = chosen.groupby(["score", "type"])["log_prob"].mean().unstack("type")
    wide = wide.loc[wide.mean(axis=1).sort_values().index]
    plain, bold = (wide.map(mark.format) for mark in ("{:.3f}", "**{:.3f}**"))
    return markdown(plain.where(wide != wide.min(), bold).reset_index())


def curve(found: Faithfulness) -> str:
    """Return the mean log-probability by the number of neurons zeroed."""
    frame = found.curve()
    wide = frame[frame["k"] > 0].pivot(index="score", columns="k", values="log_prob")
    return markdown(wide.sort_values(found.k).reset_index())


def lost(frame: pd.DataFrame) -> str:
    """Return what zeroing costs, in per cent and in nats."""
    return markdown(frame.rename(columns=NAMES), 1)


def main() -> None:
    """Measure everything and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--per-type", type=int, default=PER_TYPE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, asked = demo.load(), facts(per_type=args.per_type)
    prompts = [prompt for group in asked.values() for prompt in group]
    found = faithfulness(model, [p.prompt for p in prompts], [p.target for p in prompts], curve=CURVE)
    study = knowledge_study(model, asked, every_neuron=True)
    sections = {
        f"Which score picks neurons that matter ({found.k} MLP neurons zeroed, {len(prompts)} prompts)": table_2(found),
        "Log-probability left, by type": by_type(found, [p.type for p in prompts]),
        "Log-probability left, by number of neurons": curve(found),
        "Kept by the selection rule": markdown(study.kept()),
        "Sums of layer scores, nats (Table 3)": markdown(study.layer_sums()),
        "Best heads (Table 10)": markdown(study.top_heads(5)),
        "Zeroing one type's best heads, % of MRR and probability lost (Table 11)": markdown(
            study.cross_decreases().rename(columns=NAMES), 1
        ),
        "Sums of neuron scores, nats (Table 5)": markdown(study.neuron_sums()),
        "Zeroing value, query and random neurons, % lost (Tables 7 and 13)": markdown(
            study.decreases().rename(columns=NAMES), 1
        ),
        "Query neurons per prompt by layer (Figure 8)": markdown(
            study.depth().astype({"layer": int}).astype({"layer": str}), 1
        ),
        "Shared neurons (Table 8)": markdown(study.shared()),
    }
    args.out.write_text("\n\n".join(f"### {title}\n\n{text}" for title, text in sections.items()) + "\n")
    print(found)
    print(study)


if __name__ == "__main__":
    main()
