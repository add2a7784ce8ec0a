"""Which score picks the neurons that matter, on real models: Table 2 and Figure 2 of paper 1, beside its numbers.

The facts are those of ``scripts/knowledge_real.py``. The two scores by rank read every neuron out over the vocabulary,
28 CPU seconds a score on SmolLM2, some 130 on Gemma and 350 on Qwen, but only once for prompts of one length: they are
measured on prompts of the commonest length, or not at all. Tables are written after every nine prompts, of those that
are done.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from facts_known import Fact, facts_known, worded
from tables import Stopwatch, markdown
from torch import Tensor

import tl_neuron_attr as tna
from tl_neuron_attr.evaluate import Faithfulness, faithfulness
from tl_neuron_attr.evaluate.best_by_score import SEARCHED, best_by_score
from tl_neuron_attr.evaluate.method_scores import Method
from tl_neuron_attr.model.tokens import prompt_ids
from tl_neuron_attr.numerics.topk import certified_topk
from tl_neuron_attr.results.intervals import interval, shown_interval

QUICK: tuple[Method, ...] = (
    *("log_prob_increase", "log_prob", "prob_increase", "norm", "coefficient", "coefficient_norm"),
    *("gradient", "random"),
)
BY_RANK: tuple[Method, ...] = ("log_prob_increase", "rank", "coefficient_rank")
LATE = "log_prob_increase, last tenth of the layers"
PICKED = 10
PART = 9
"""Prompts measured together: one of each type."""


@torch.no_grad()
def late(model: Any, cache: Any, tokens: Tensor, target: Tensor) -> Tensor:
    """Score the neurons that the paper's score picks in the last tenth of the layers, where another picks most."""
    q = tna.scored(cache, target)
    first = min(math.ceil(0.9 * model.cfg.n_layers), model.cfg.n_layers - 1)
    sublayers = list(q.checked_sublayers(("mlp",)))
    found = certified_topk(q.increases(("mlp",))[first:], sublayers[first:], PICKED)
    grid = torch.full((len(tokens), len(sublayers), model.cfg.d_mlp), -torch.inf)
    grid[:, first:] = grid[:, first:].flatten(1).scatter(1, found.flat, found.score).view_as(grid[:, first:])
    return grid


def of_one_length(model: Any, facts: Sequence[Fact], n: int) -> list[Fact]:
    """Return the first facts whose prompts have the commonest number of tokens."""
    lengths = [len(prompt_ids(model, prompt)) for prompt, *_ in facts]
    commonest = max(lengths, key=lengths.count)
    return [fact for fact, length in zip(facts, lengths, strict=True) if length == commonest][:n]


def measured(
    model: Any, facts: Sequence[Fact], scores: Sequence[Method], seed: int, *, part: int, own: Sequence[str] = ()
) -> Iterator[Faithfulness]:
    """Zero the ten best of each prompt by each score; yield what is found whenever some more prompts are done."""
    frames: list[pd.DataFrame] = []
    for start in range(0, len(facts), part):
        prompts, targets, _ = zip(*facts[start : start + part], strict=True)
        scored = dict.fromkeys(own, late)
        found = faithfulness(
            model, prompts, targets, scores=scores, k=PICKED, own_scores=scored, seed=seed + start, progress=False
        )
        frames.append(found.frame.assign(prompt=found.frame["prompt"] + start))
        yield replace(found, frame=pd.concat(frames, ignore_index=True))


def table_2(found: Faithfulness, facts: Sequence[Fact]) -> str:
    """What is left of the answers, and how much more each score takes than the paper's, paired by prompt."""
    done = facts[: found.frame["prompt"].nunique()]
    named = worded([prompt for prompt, *_ in done])
    columns = {"log p, nats": "log_prob", "probability": "prob", "MRR": "reciprocal_rank"}
    rows = found.summary()
    cells = {
        name: [shown_interval(*row, spec=".2f") for row in rows[_ends(c)].to_numpy()] for name, c in columns.items()
    }
    by_fact = found.by_fact(named)
    more = {
        f"takes more than the paper's, nats, over {over}": [_more(some).get(s, "") for s in rows["score"]]
        for over, some in ((f"{len(done)} prompts", found), (f"{len(set(named))} facts", by_fact))
    }
    return markdown(pd.DataFrame({"score": rows["score"], **cells, **more}))


def _more(found: Faithfulness) -> dict[str, str]:
    """How much more each score takes than the paper's."""
    paired = found.differences()
    cells = paired[_ends("difference")].to_numpy()
    return {score: shown_interval(*row, spec="+.2f") for score, row in zip(paired["score"], cells, strict=True)}


def _ends(column: str) -> list[str]:
    return [f"{column}{end}" for end in ("", "_low", "_high")]


def _tenth(model: Any, layer: int) -> int:
    return 10 * layer // model.cfg.n_layers


def figure_2(model: Any, facts: Sequence[Fact]) -> str:
    """By tenths of the depth, the share of the best neurons of the scores that can be searched, per cent."""
    shares: dict[str, list[Tensor]] = {score: [] for score in SEARCHED}
    for prompt, token, _ in facts:
        _, cache = model.run_with_cache(prompt_ids(model, prompt)[None])
        for score in SEARCHED:
            layers = best_by_score(cache, torch.tensor([[token]]), score, PICKED).layer.flatten()
            shares[score].append(torch.bincount(_tenth(model, layers), minlength=10) / PICKED)
    found = {score: 100 * torch.stack(some) for score, some in shares.items()}
    grid = pd.DataFrame({score: some.mean(0) for score, some in found.items()})
    more = interval(pd.Series((found["prob_increase"] - found["log_prob_increase"])[:, -1]))
    return (
        f"{markdown(grid.rename_axis('tenth of the depth').reset_index(), 0)}\n\nThe probability increase has "
        f"{shown_interval(*more, spec='+.0f')} more of a hundred in the last tenth than the paper's score, "
        "paired by prompt."
    )


def sections(model: Any, args: argparse.Namespace, prompts: int, by_rank: int) -> Iterator[tuple[str, str]]:
    """Yield a kind of table with what is known so far: later ones of a kind take the place of earlier ones."""
    facts = facts_known(model, prompts)
    ranked = of_one_length(model, facts, by_rank)
    runs = [("Table 2", facts, QUICK, PART, [LATE]), ("ranks", ranked, BY_RANK, len(ranked) or 1, [])]
    for kind, some, scores, part, own in runs:
        for found in measured(model, some, scores, args.seed, part=part, own=own):
            title = f"{PICKED} MLP neurons zeroed, {found.frame['prompt'].nunique()} prompts (Table 2)"
            yield kind, f"{title}\n\n{table_2(found, some)}"
    yield "Figure 2", f"Where the {PICKED} best lie, {len(facts)} prompts, % (Figure 2)\n\n{figure_2(model, facts)}"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b"])
    parser.add_argument("--prompts", type=int, nargs="+", default=[45, 45, 18], help="by model")
    parser.add_argument("--ranked", type=int, nargs="+", default=[12, 9, 0], help="prompts of the scores by rank")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    written: dict[str, str] = {}
    for name, prompts, by_rank in zip(args.models, args.prompts, args.ranked, strict=True):
        spent, model = Stopwatch(args.device), tna.load(name, device=args.device)
        tables: dict[str, str] = {}
        for kind, body in sections(model, args, prompts, by_rank):
            tables[kind] = f"#### {body}\n"
            head = f"### {model.cfg.model_name.split(' (')[0]}: the eight scores\n\nSeed {args.seed}, {spent}.\n\n"
            written[name] = head + "\n".join(tables.values())
            args.out.write_text("\n".join(written.values()))
            print(f"{body}\n{spent}", flush=True)


if __name__ == "__main__":
    main()
