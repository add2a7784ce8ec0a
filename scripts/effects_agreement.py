"""How well scores predict what taking a neuron out costs, on real models: ``make results-real``.

Of each prompt the paper's best MLP neurons and as many random ones are really taken out, one by one, and every score of
them is compared with the effect measured; then the ten best by each score are taken out together. The prompts are facts
the model knows (the selection rule of paper 1), in turn of each type.
"""

import argparse
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from facts_known import Fact, facts_known
from matplotlib.figure import Figure
from tables import Stopwatch, markdown
from torch import Tensor
from tqdm import tqdm

import tl_neuron_attr as tna
from tl_neuron_attr.evaluate import estimate_effects, verify
from tl_neuron_attr.evaluate.outcome import Outcome
from tl_neuron_attr.model.cache_checks import needed_by
from tl_neuron_attr.model.scored_cache import ScoredCache
from tl_neuron_attr.model.tokens import prompt_ids
from tl_neuron_attr.numerics.exact_scores import exact_scores
from tl_neuron_attr.numerics.increase import MAX_BYTES
from tl_neuron_attr.numerics.sublayer import Sublayer
from tl_neuron_attr.numerics.topk import certified_topk
from tl_neuron_attr.results.intervals import interval, shown_interval
from tl_neuron_attr.vis.plots import COLOURS

PAPER, PROB, FINAL = "log-probability increase (paper 1)", "probability increase", "direct effect on the final stream"
ESTIMATES = {
    "gradient, scored position": {"positions": "scored"},
    "gradient, all positions": {},
    "relevance rule, scored position": {"method": "relevance", "positions": "scored"},
    "relevance rule, all positions": {"method": "relevance"},
}
INTEGRATED = "integrated gradients, scored position"
PICKED = 10


@dataclass
class Explained:
    """One prompt: what its scores are computed from."""

    model: Any
    ids: Tensor
    token: int
    scored: ScoredCache
    sublayers: list[Sublayer]

    @classmethod
    def of(cls, model: Any, prompt: str, token: int) -> "Explained":
        """Run the prompt once."""
        ids = prompt_ids(model, prompt)
        _, cache = model.run_with_cache(ids[None], names_filter=needed_by(("mlp",)))
        q = tna.scored(cache, token)
        return cls(model, ids, token, q, list(q.checked_sublayers(("mlp",))))

    @property
    def d_mlp(self) -> int:
        """MLP neurons of a layer."""
        return self.sublayers[0].coefficients.shape[1]

    def increases(self, flat: Tensor) -> Tensor:
        """The paper's score of the neurons numbered through the layers."""
        rows = torch.zeros_like(flat)
        found = self.scored.increases(("mlp",))
        return exact_scores(found, self.sublayers, rows, flat, max_bytes=MAX_BYTES)

    def best(self, k: int) -> Tensor:
        """The paper's best neurons."""
        return certified_topk(self.scored.increases(("mlp",)), self.sublayers, k).flat[0]

    def prob_increases(self, flat: Tensor) -> Tensor:
        """How far the target's probability rises over the stream each neuron's layer read."""
        base = torch.cat([i.target_log_p() for i in self.scored.increases(("mlp",))]).exp()
        return base[flat // self.d_mlp] * self.increases(flat).expm1()

    def best_by_prob(self, k: int) -> Tensor:
        """The best by probability increase: within a layer its order is the paper's, so each layer's best suffice."""
        tops = [
            certified_topk([increase], [sublayer], k).flat[0] + i * self.d_mlp
            for i, (increase, sublayer) in enumerate(zip(self.scored.increases(("mlp",)), self.sublayers, strict=True))
        ]
        some = torch.cat(tops)
        return some[self.prob_increases(some).topk(k).indices]

    def final_effects(self, flat: Tensor) -> Tensor:
        """How far log p falls if a write leaves the final stream, the norm's scale as it is."""
        final = self.scored.final()
        out = []
        for some in flat.split(64):
            rows = torch.zeros_like(some)
            writes = torch.stack(
                [
                    self.sublayers[layer].writes(rows[:1], n[None], rows[:1])[0]
                    for layer, n in zip((some // self.d_mlp).tolist(), some % self.d_mlp, strict=True)
                ]
            )
            without = self.scored.readout.finish(self.scored.readout.logits((final.base - writes)[None]))[0]
            out.append(self.scored.log_probs()[0, self.token] - without[:, self.token])
        return torch.cat(out)

    def neurons(self, flat: Tensor) -> tna.Neurons:
        """The neurons numbered through the layers."""
        zeros = torch.zeros(len(flat))
        return tna.Neurons.of_mlp(flat // self.d_mlp, flat % self.d_mlp, coefficient=zeros, score=zeros)


def explained(model: Any, facts: Sequence[Fact], bar: str) -> Iterator[tuple[int, Explained]]:
    """Run each fact's prompt."""
    for i, (prompt, token, _) in enumerate(tqdm(facts, desc=bar)):
        yield i, Explained.of(model, prompt, token)


def singles(model: Any, facts: Sequence[Fact], n: int, seed: int, integrated: int) -> pd.DataFrame:
    """Scores and measured effects of single neurons: one row per prompt, neuron and score."""
    frames = []
    for i, one in explained(model, facts, "single neurons"):
        every = len(one.sublayers) * one.d_mlp
        drawn = torch.tensor(random.Random(f"{seed} {i}").sample(range(every), n))
        options = dict(ESTIMATES)
        if i < integrated:
            options[INTEGRATED] = {"method": "integrated", "positions": "scored"}
        grids = {name: estimate_effects(model, one.ids, one.token, **o).mlp_neurons for name, o in options.items()}
        for which, flat in (("best", one.best(n)), ("random", drawn)):
            effect = verify(model, one.ids, one.neurons(flat), one.token, progress=False).neurons.effect
            scores = {PAPER: one.increases(flat), PROB: one.prob_increases(flat), FINAL: one.final_effects(flat)}
            scores |= {name: grid.flatten()[flat] for name, grid in grids.items()}
            layer = (flat // one.d_mlp).tolist()
            frames += [
                pd.DataFrame(
                    {"prompt": i, "neurons": which, "score": name, "layer": layer, "value": value, "effect": effect}
                )
                for name, value in scores.items()
            ]
    return pd.concat(frames, ignore_index=True)


def agreement(frame: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation and the share of right signs, by score and kind of neurons, mean over prompts."""
    return (
        frame.groupby(["score", "neurons", "prompt"], sort=False)
        .apply(_agreement, include_groups=False)
        .groupby(["score", "neurons"], sort=False)
        .mean()
        .unstack("neurons")
    )


def _agreement(group: pd.DataFrame) -> pd.Series:
    spearman = group[["value", "effect"]].rank().corr().iloc[0, 1]
    return pd.Series({"Spearman": spearman, "right signs": ((group["value"] > 0) == (group["effect"] > 0)).mean()})


def ten_out(model: Any, facts: Sequence[Fact], seed: int, candidates: int) -> pd.DataFrame:
    """Log p left after taking out the ten best by each score together: one row per prompt, one column per score."""
    rows = []
    for i, one in explained(model, facts, "ten neurons"):
        every = len(one.sublayers) * one.d_mlp
        picks = {"random": torch.tensor(random.Random(f"{seed} {i} ten").sample(range(every), PICKED))}
        best = one.best(candidates)
        picks |= {PAPER: best[:PICKED], PROB: one.best_by_prob(PICKED)}
        grids = {
            n: estimate_effects(model, one.ids, one.token, **o).mlp_neurons.flatten() for n, o in ESTIMATES.items()
        }
        picks |= {name: grid.topk(PICKED).indices for name, grid in grids.items()}
        tops = [grids[name].topk(candidates).indices for name in list(ESTIMATES)[1::2]]
        tried = torch.cat([best, *tops]).unique()
        effect = verify(model, one.ids, one.neurons(tried), one.token, progress=False).neurons.effect
        picks["measured, of some 250 candidates"] = tried[effect.topk(PICKED).indices]
        sets = [one.neurons(flat) for flat in picks.values()]
        batch = one.ids[None].expand(len(sets), -1)
        with tna.ablate(model, [each.labels for each in sets]):
            left = Outcome.of(model(batch)[:, -1:], torch.full((len(sets), 1), one.token)).log_prob
        rows.append(
            {"nothing": float(one.scored.log_probs()[0, one.token]), **dict(zip(picks, left.tolist(), strict=True))}
        )
    return pd.DataFrame(rows)


def costs(model: Any, fact: Fact) -> dict[str, float]:
    """Processor time of each score's ranking of all MLP neurons for one prompt, over that of a forward pass."""
    one = Explained.of(model, fact[0], fact[1])
    forward = _cpu(lambda: model(one.ids[None]), 5)
    some = one.neurons(one.best(100))
    found = {
        PAPER: _cpu(lambda: Explained.of(model, fact[0], fact[1]).best(100)),
        "verifying 100 neurons": _cpu(lambda: verify(model, one.ids, some, one.token, progress=False)),
        **{n: _cpu(lambda o=o: estimate_effects(model, one.ids, one.token, **o)) for n, o in ESTIMATES.items()},
    }
    return {name: seconds / forward for name, seconds in found.items()}


def _cpu(call: Callable[[], object], times: int = 3) -> float:
    """Median CPU seconds."""
    taken = []
    for _ in range(times):
        started = time.process_time()
        call()
        taken.append(time.process_time() - started)
    return sorted(taken)[times // 2]


def section(name: str, model: Any, single: pd.DataFrame, ten: pd.DataFrame, cost: dict[str, float], took: str) -> str:
    """The tables of a model."""
    table = agreement(single)
    kinds = [("best", "the paper's best"), ("random", "random")]
    each = len(single[(single["prompt"] == 0) & (single["score"] == PAPER)]) // 2
    columns: dict[str, Any] = {"score": list(table.index)}
    for kind, words in kinds:
        spearman, signs = (table[what][kind] for what in ("Spearman", "right signs"))
        columns[f"{words} {each}: Spearman / right signs"] = [
            f"{r:+.2f} / {100 * s:.0f} %" for r, s in zip(spearman, signs, strict=True)
        ]
    columns["cost, forward passes"] = [f"{cost[n]:.1f}" if n in cost else "" for n in table.index]
    left = [(n, shown_interval(*interval(ten[n]), spec=".2f")) for n in ten.mean().sort_values().index]
    tens = pd.DataFrame(left, columns=["ten MLP neurons taken out", f"log p left, nats ({len(ten)} prompts)"])
    return (
        f"### {name}\n\n{markdown(pd.DataFrame(columns), 1)}\n\n{single['prompt'].nunique()} prompts; integrated "
        f"gradients on fewer. Verifying 100 neurons costs {cost['verifying 100 neurons']:.1f} forward passes.\n\n"
        f"{markdown(tens)}\n\n{took}\n"
    )


def draw(frames: dict[str, pd.DataFrame], path: Path) -> None:
    """Score against effect, and agreement by depth."""
    figure = Figure(figsize=(10, 3.1 * len(frames)), layout="constrained")
    axes = figure.subplots(len(frames), 3, squeeze=False)
    for row, (name, frame) in zip(axes, frames.items(), strict=True):
        best = frame[frame["neurons"] == "best"]
        for ax, score in zip(row, (PAPER, "gradient, all positions"), strict=False):
            some = best[best["score"] == score]
            low, high = some[["value", "effect"]].to_numpy().min(), some[["value", "effect"]].to_numpy().max()
            ax.plot([low, high], [low, high], color="#7f7f7f", linewidth=0.8)
            ax.scatter(some["value"], some["effect"], s=3, alpha=0.4, color=COLOURS[0], linewidths=0, rasterized=True)
            ax.set(title=f"{name}: {score}", xlabel="score, nats", ylabel="measured effect, nats")
            ax.set_xscale("symlog", linthresh=0.01)
            ax.set_yscale("symlog", linthresh=0.01)
        _by_depth(row[2], frame)
    for ax in axes.flat:
        ax.title.set_fontsize(8)
        ax.tick_params(labelsize=7)
    figure.legend(*axes[0, 2].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
    figure.savefig(path, metadata={"Date": None}, dpi=150)


def _by_depth(ax: Any, frame: pd.DataFrame) -> None:
    """Spearman's correlation over random neurons, by sixth of the depth."""
    drawn = frame[frame["neurons"] == "random"]
    depth = (6 * drawn["layer"] // (frame["layer"].max() + 1)).astype(int)
    for (score, group), colour in zip(drawn.groupby("score", sort=False), COLOURS, strict=False):
        by = group.groupby(depth)[["value", "effect"]].apply(lambda g: g.rank().corr().iloc[0, 1])
        ax.plot((by.index + 0.5) / 6, by, marker="o", markersize=3, color=colour, label=str(score))
    ax.set(title="random neurons, by depth", xlabel="depth", ylabel="Spearman", ylim=(-0.3, 1.05))


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["smollm2-135m", "gemma3-270m"])
    parser.add_argument("--prompts", type=int, default=12, help="of which single neurons are taken out")
    parser.add_argument("--ten", type=int, default=40, help="prompts of which ten neurons are taken out")
    parser.add_argument("--neurons", type=int, default=300)
    parser.add_argument("--integrated", type=int, default=1, help="prompts with integrated gradients, which are dear")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plot", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sections, frames = [], {}
    for name in args.models:
        spent, model = Stopwatch(), tna.load(name)
        facts = facts_known(model, max(args.ten, args.prompts))
        with torch.no_grad():
            single = singles(model, facts[: args.prompts], args.neurons, args.seed, args.integrated)
            ten = ten_out(model, facts[: args.ten], args.seed, 100)
            cost = costs(model, facts[0])
        took = f"Seed {args.seed}, {spent}."
        sections.append(section(model.cfg.model_name, model, single, ten, cost, took))
        frames[name] = single
        args.out.write_text("\n".join(sections))
        print(sections[-1])
    draw(frames, args.plot)


if __name__ == "__main__":
    main()
