"""Paper 1's experiments on real models, beside its numbers: ``make results-real``.

Facts the model knows (the selection rule of paper 1), in turn of each type. In models of less than 100,000 MLP neurons
about a tenth as many are zeroed as in the paper's.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
from facts_known import asked, in_turn, worded
from knowledge_claims import claims, wordings
from tables import Stopwatch, markdown

import tl_neuron_attr as tna
from tl_neuron_attr.evaluate import KnowledgeStudy, StudyPrompt, by_type, knowledge_study
from tl_neuron_attr.evaluate.select import KEPT
from tl_neuron_attr.results.intervals import shown_interval

DROPS = {"reciprocal_rank": "MRR", "prob": "probability"}


def wide(frame: pd.DataFrame, row: str, column: str, value: str) -> pd.DataFrame:
    """A row and a column for each value that ``row`` and ``column`` have, in order of appearance."""
    grid = frame.pivot(index=row, columns=column, values=value)
    return grid.reindex(index=frame[row].unique(), columns=frame[column].unique()).reset_index()


def lost(frame: pd.DataFrame) -> pd.DataFrame:
    """What zeroing takes: ``MRR / probability``, per cent, by type and what was zeroed."""
    cells = frame.assign(cell=[f"{m:.0f} / {p:.0f}" for m, p in frame[list(DROPS)].to_numpy()])
    means = cells.groupby("zeroed")[list(DROPS)].mean()
    table = wide(cells, "zeroed", "type", "cell")
    return table.assign(mean=[f"{m:.0f} / {p:.0f}" for m, p in means.loc[table["zeroed"]].to_numpy()])


def specific(study: KnowledgeStudy) -> pd.DataFrame:
    """What neurons are worth here and elsewhere, in nats."""
    rows = [
        {
            "zeroed": f"{row['kind']} neurons{'' if row['common'] else ' that are not common'}",
            "neurons": row["neurons"],
            **{
                name: shown_interval(*(row[f"{column}{end}"] for end in ("", "_low", "_high")), spec=".2f")
                for name, column in (("own answer", "own"), ("other types'", "others"), ("difference", "difference"))
            },
        }
        for row in study.specific_drops().to_dict("records")
    ]
    return pd.DataFrame(rows)


def layer_sums(study: KnowledgeStudy) -> pd.DataFrame:
    """Table 3 with intervals."""
    sums = study.layer_sums()
    columns = sums[["score", "score_low", "score_high"]].to_numpy()
    return wide(sums.assign(cell=[shown_interval(*row, spec=".1f") for row in columns]), "site", "type", "cell")


def depth(study: KnowledgeStudy) -> pd.DataFrame:
    """Figure 8 by tenths of the depth."""
    found = study.depth()
    tenth = (10 * found["layer"] // len(found)).astype(int)
    return found.groupby(tenth)[["queryvalue", "queryonly"]].sum().rename_axis("tenth of the depth").reset_index()


def kept(study: KnowledgeStudy, asked: pd.DataFrame) -> pd.DataFrame:
    """The yield of the selection rule by type, and how many of the kept prompts the study has."""
    rows = asked.assign(kept=asked["status"] == KEPT).groupby("type", sort=False)
    counts = rows.agg(asked=("kept", "count"), kept=("kept", "sum"), answer_of_one_token=("usable", "sum"))
    counts["studied"] = study.selection.groupby("type").size().reindex(counts.index, fill_value=0)
    facts = pd.Series(worded(study.selection["prompt"].tolist()), study.selection.index)
    counts["facts studied"] = facts.groupby(study.selection["type"]).nunique().reindex(counts.index, fill_value=0)
    counts.loc["all"] = counts.sum()
    return counts.rename(columns=lambda name: name.replace("_", " ")).reset_index()


def sections(study: KnowledgeStudy, asked: pd.DataFrame) -> dict[str, str]:
    """The tables of a model."""
    facts = worded(study.selection["prompt"].tolist())
    sizes = study.sizes.set_index("name")["value"]
    value = f"{sizes['value_attn']:.0f} attention and {sizes['value_mlp']:.0f} MLP value neurons"
    shared = wide(study.shared(), "kind", "type", "neurons").fillna(0)
    heads = study.top_heads(5).assign(head=lambda f: [f"L{a}H{b}" for a, b in f[["layer", "head"]].to_numpy()])
    return {
        "Claims, with 95 % intervals": markdown(claims(study, facts)),
        "Two wordings of one fact: what zeroing their MLP neurons takes": markdown(wordings(study, facts), 2),
        "Kept by the selection rule": markdown(kept(study, asked)),
        "Sums of layer scores, nats (Table 3)": markdown(layer_sums(study), 1),
        f"Zeroing {value}, or {sizes['query']:.0f} query neurons; % of MRR / probability lost (Tables 7, 13)": markdown(
            lost(study.decreases())
        ),
        "The same MLP neurons zeroed on other types too, nats lost": markdown(specific(study), 1),
        f"Zeroing the best heads of a type ({100 * sizes['heads']:.0f} % of all); % lost (Table 11)": markdown(
            lost(study.cross_decreases())
        ),
        "Best heads (Table 10)": markdown(
            heads.groupby("type", sort=False)["head"].apply(" ".join).rename("best first").reset_index()
        ),
        f"Neurons among the best {sizes['shared']:.0f} of more than half of a type's prompts (Table 8)": markdown(
            shared, 0
        ),
        "Query neurons per prompt by depth (Figure 8)": markdown(depth(study), 1),
        "Sums of the best neurons' scores, nats (Table 5)": markdown(study.neuron_sums(), 1),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b"])
    parser.add_argument("--prompts", type=int, default=150, help="kept prompts of each model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--study", type=Path, help="a folder that keeps every prompt's results as they come")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    written = []
    for name in args.models:
        spent, model = Stopwatch(args.device), tna.load(name, device=args.device)
        known = asked(model)
        facts = in_turn(known, args.prompts)
        prompts = [StudyPrompt(text, model.tokenizer.decode([token]), kind) for text, token, kind in facts]
        folder = None if args.study is None else args.study / name
        study = knowledge_study(model, by_type(prompts), seed=args.seed, out=folder)
        tables = "\n\n".join(f"#### {title}\n\n{text}" for title, text in sections(study, known).items())
        took = f"{len(facts)} prompts, seed {args.seed}, {spent}."
        written.append(f"### {model.cfg.model_name}\n\n{took}\n\n{tables}\n")
        args.out.write_text("\n".join(written))
        print(written[-1])


if __name__ == "__main__":
    main()
