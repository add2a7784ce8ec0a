"""Facts whose answers are of several tokens, beside those of one: how many a real model knows, and what holds them.

A part of ``make results-real``. The selection rule is paper 1's: each token of an answer must be among
the ten likeliest, and likelier than that of other answers of its type where the two part.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
from tables import Stopwatch, markdown

import tl_neuron_attr as tna
from tl_neuron_attr.evaluate import faithfulness, real_facts, select
from tl_neuron_attr.evaluate.select import KEPT
from tl_neuron_attr.results.intervals import interval, shown_interval

VALUE = 10
"""Neurons zeroed in each prompt, as in paper 1, section 4.1."""

SHOWN = 6
"""Facts whose best neurons are listed: one of each type that has any."""


LENGTHS = ("one", "two", "three and more")
"""What groups of answers are called."""


def length(tokens: int) -> str:
    """The group of an answer."""
    return LENGTHS[min(tokens, len(LENGTHS)) - 1]


def by_length(frame: pd.DataFrame, column: str) -> list[tuple[str, pd.DataFrame]]:
    """The groups that have any answers, the shortest first."""
    return [(name, group) for name in LENGTHS if len(group := frame[frame[column] == name])]


def kept(selection: pd.DataFrame) -> pd.DataFrame:
    """How many answers of each length the selection rule keeps."""
    readable = selection[selection["target_tokens"] > 0]
    groups = by_length(readable.assign(length=readable["target_tokens"].map(length)), "length")
    rows = [
        {
            "tokens of the answer": name,
            "asked": len(group),
            "kept": int((group["status"] == KEPT).sum()),
            "kept, %": f"{100 * (group['status'] == KEPT).mean():.0f}",
        }
        for name, group in groups
    ]
    return pd.DataFrame(rows)


def left(model: object, known: pd.DataFrame, seed: int) -> pd.DataFrame:
    """What zeroing the best value neurons, or random ones, leaves of kept answers of each length."""
    found = faithfulness(
        model,
        known["prompt"].tolist(),
        known["target"].tolist(),
        scores=["log_prob_increase", "random"],
        k=VALUE,
        seed=seed,
    ).frame
    found["length"] = found["prompt"].map(dict(enumerate(known["target_tokens"].map(length))))
    rows = []
    for name, group in by_length(found, "length"):
        row = {"tokens of the answer": name, "facts": group["prompt"].nunique()}
        for score, said in (("none", "untouched"), ("log_prob_increase", "best zeroed"), ("random", "random zeroed")):
            mine = group[group["score"] == score]
            row[f"log p, {said}"] = shown_interval(*interval(mine["log_prob"]), spec=".1f")
            row[f"still first, %, {said}"] = f"{100 * (mine['rank'] == 1).mean():.0f}"
        rows.append(row)
    return pd.DataFrame(rows)


def neurons(model: object, known: pd.DataFrame) -> pd.DataFrame:
    """The best value neurons of some answers of several tokens, what each token adds, and what they promote."""
    rows = []
    for fact in known.groupby("type", sort=False).head(1).head(SHOWN).to_dict("records"):
        answer = tna.answer(model, fact["prompt"], fact["target"])
        found = tna.value_neurons(answer, k=3)
        found = found[0] if found.batched else found
        parts = found.token_score.T.tolist()
        for neuron, own in zip(found.to_frame(readable=True).to_dict("records"), parts, strict=True):
            rows.append(
                {
                    "fact": f"{fact['prompt']}{fact['target']}" if neuron["rank"] == 1 else "",
                    "neuron": neuron["neuron"],
                    "nats": f"{neuron['score']:.2f}",
                    "by token": " ".join(f"{part:+.2f}" for part in own),
                    "words it promotes": ", ".join(word.strip() for word in neuron["promoted"][:5]),
                }
            )
    return pd.DataFrame(rows)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--most", type=int, default=25, help="kept facts of each length whose neurons are zeroed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    spent, model = Stopwatch("cpu"), tna.load(args.model)
    selection = select(model, [prompt for group in real_facts().values() for prompt in group])
    known = selection[selection["status"] == KEPT].sample(frac=1, random_state=args.seed)
    several = known[known["target_tokens"] > 1]
    asked = known.groupby(known["target_tokens"].map(length)).head(args.most).reset_index(drop=True)
    sections = {
        "Kept by the selection rule": kept(selection),
        f"{VALUE} MLP neurons zeroed in each prompt; means and 95 % bootstrap intervals": left(model, asked, args.seed),
        "The best value neurons of whole answers": neurons(model, several),
    }
    tables = "\n\n".join(f"#### {title}\n\n{markdown(table)}" for title, table in sections.items())
    args.out.write_text(f"### {model.cfg.model_name}\n\nSeed {args.seed}, {spent}.\n\n{tables}\n", encoding="utf-8")
    print(args.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
