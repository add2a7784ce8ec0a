"""Which score picks the neurons that matter, on real models: Table 2 and Figure 2 of paper 1, beside its numbers.

The facts are those of ``scripts/knowledge_real.py``. The two scores by rank read every neuron out over the vocabulary
(28 CPU seconds a prompt and score on SmolLM2), so that they are measured on fewer prompts, or none.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from facts_known import Fact, facts_known
from tables import Stopwatch, markdown, ranged

import tl_neuron_attr as tna
from tl_neuron_attr.evaluate import Faithfulness, faithfulness
from tl_neuron_attr.evaluate.best_by_score import SEARCHED, best_by_score
from tl_neuron_attr.evaluate.method_scores import Method
from tl_neuron_attr.model.tokens import prompt_ids

QUICK: tuple[Method, ...] = (
    *("log_prob_increase", "log_prob", "prob_increase", "norm", "coefficient", "coefficient_norm"),
    *("gradient", "random"),
)
BY_RANK: tuple[Method, ...] = ("log_prob_increase", "rank", "coefficient_rank")
PICKED = 10


def measured(model: Any, facts: Sequence[Fact], scores: Sequence[Method], seed: int) -> Faithfulness:
    """Zero the ten best of each prompt by each score."""
    prompts, targets, _ = zip(*facts, strict=True)
    return faithfulness(model, prompts, targets, scores=scores, k=PICKED, seed=seed)


def table_2(found: Faithfulness) -> str:
    """What is left of the answers, and how much more each score takes than the paper's, paired by prompt."""
    columns = {"log p, nats": "log_prob", "probability": "prob", "MRR": "reciprocal_rank"}
    rows = found.summary()
    ends = ("", "_low", "_high")
    cells = {
        name: [ranged(*row, ".2f") for row in rows[[f"{c}{end}" for end in ends]].to_numpy()]
        for name, c in columns.items()
    }
    paired = found.differences().set_index("score")
    more = {
        score: ranged(*row, "+.2f")
        for score, row in zip(paired.index, paired[[f"difference{end}" for end in ends]].to_numpy(), strict=True)
    }
    against = [more.get(score, "") for score in rows["score"]]
    return markdown(pd.DataFrame({"score": rows["score"], **cells, "takes more than the paper's, nats": against}))


def figure_2(model: Any, facts: Sequence[Fact]) -> str:
    """By tenths of the depth, the share of the best neurons of the scores that can be searched, per cent."""
    layers: dict[str, list[int]] = {score: [] for score in SEARCHED}
    for prompt, token, _ in facts:
        _, cache = model.run_with_cache(prompt_ids(model, prompt)[None])
        for score in SEARCHED:
            layers[score] += best_by_score(cache, torch.tensor([[token]]), score, PICKED).layer.flatten().tolist()
    tenths = {
        s: (10 * pd.Series(found) // model.cfg.n_layers).value_counts(normalize=True) for s, found in layers.items()
    }
    grid = 100 * pd.DataFrame(tenths).reindex(range(10)).fillna(0)
    return markdown(grid.rename_axis("tenth of the depth").reset_index(), 0)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["smollm2-135m"])
    parser.add_argument("--prompts", type=int, default=45)
    parser.add_argument("--ranked", type=int, nargs="+", default=[6], help="prompts of the scores by rank, by model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    written: list[str] = []
    for name, by_rank in zip(args.models, args.ranked, strict=True):
        spent, model = Stopwatch(args.device), tna.load(name, device=args.device)
        facts = facts_known(model, args.prompts)
        tables = {
            f"{PICKED} MLP neurons zeroed, {len(facts)} prompts (Table 2)": table_2(
                measured(model, facts, QUICK, args.seed)
            ),
            f"Where the {PICKED} best lie, % (Figure 2)": figure_2(model, facts),
        }
        if by_rank:
            some = measured(model, facts[:by_rank], BY_RANK, args.seed)
            tables[f"The scores by rank, {by_rank} prompts (Table 2)"] = table_2(some)
        took = f"Seed {args.seed}, {spent}."
        text = "\n\n".join(f"#### {title}\n\n{table}" for title, table in tables.items())
        written.append(f"### {model.cfg.model_name}\n\n{took}\n\n{text}\n")
        args.out.write_text("\n".join(written))
        print(written[-1])


if __name__ == "__main__":
    main()
