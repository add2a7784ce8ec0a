"""The two biases of in-context classification (paper 2, Tables 7 and 8), as rows of a study."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.incontext.bias_measures import WHEN, Means, bias_tables
from tl_neuron_attr.incontext.icl_batches import require_alike
from tl_neuron_attr.incontext.icl_biases import bias_values, orders_measured, require_balanced
from tl_neuron_attr.incontext.icl_prompt import IclPrompt, tokenised
from tl_neuron_attr.incontext.majority_correction import HEADS_FIX, majority_correction
from tl_neuron_attr.incontext.outcomes import Among
from tl_neuron_attr.incontext.resampling import estimate
from tl_neuron_attr.model.components import Head, required_heads
from tl_neuron_attr.sweep.poisson_draws import PoissonDraws
from tl_neuron_attr.sweep.prompt_batches import fingerprint_of_texts
from tl_neuron_attr.sweep.shard_task import Frames, Items, Shard


@typechecked_fields
@dataclass(frozen=True)
class IclBiasesTask:
    """Measure majority-label and recency bias on every in-context prompt, before and after their corrections.

    What :func:`~tl_neuron_attr.incontext.icl_biases` measures with the paper's corrections. Items are
    :func:`icl_items`.

    Attributes:
        heads: The heads to correct, as found on other prompts by :func:`~tl_neuron_attr.incontext.in_context_heads`.
        a_c: The size of the majority correction.
        among: What a right answer competes with.
        seed: Of the bootstrap, and of the orders if there are more than 24.
        batch_size: Prompts run together.
    """

    heads: Sequence[Head]
    a_c: float = 0.03
    among: Among = "vocabulary"
    seed: int = 0
    batch_size: int = 64

    name = "icl_biases"
    stages = ("biases",)

    def __post_init__(self) -> None:
        """Refuse a task without heads."""
        if not self.heads:
            raise ValueError(f"heads is empty: {HEADS_FIX}")
        object.__setattr__(self, "heads", tuple((layer, head) for layer, head in self.heads))

    def described(self) -> dict[str, Any]:
        """Return the task's parameters."""
        return {**asdict(self), "heads": [list(head) for head in self.heads]}

    @classmethod
    def read(cls, parameters: Mapping[str, Any]) -> "IclBiasesTask":
        """Return the task of what :meth:`described` returned."""
        heads: Any = tuple((layer, head) for layer, head in parameters["heads"])
        return cls(**{**parameters, "heads": heads})

    def prepared(self, stage: str, shards: Iterable[pd.DataFrame]) -> dict[str, Any]:
        """Return nothing: a prompt's answers depend on no other prompt."""
        return {}

    @torch.no_grad()
    def rows(self, stage: str, model: Any, shard: Shard, known: Mapping[str, Any]) -> pd.DataFrame:
        """Return one row per prompt: ``gold``, and what the measures are means of, a list with one value per condition.

        Raises:
            IndexError: If the model has no such head.
        """
        heads = required_heads(model, list(self.heads), fix=HEADS_FIX)
        prompts = [_prompt(model, line) for line in shard.items.to_dict("records")]
        raised = partial(majority_correction, model, heads=heads, a_c=self.a_c)
        values = bias_values(
            model, prompts, heads, orders_measured(prompts[0].sequence, None, self.seed),
            majority=raised, recency=None, among=self.among, batch_size=self.batch_size,
        )  # fmt: skip
        columns = {
            f"{when} {name}": list(of.T.numpy()) for when, by_name in values.items() for name, of in by_name.items()
        }
        return pd.DataFrame({"item": shard.items.index, "gold": [p.gold for p in prompts], **columns})

    def tables(self, frames: Frames) -> dict[str, pd.DataFrame]:
        """Return ``biases``, ``changes`` and ``orders`` as :class:`~tl_neuron_attr.incontext.IclBiases` has them.

        ``task`` says how many prompts there were, the accuracy with its interval, that of always giving the most
        frequent label, and whether the model does the task: if not, the others are empty.
        """
        draws = PoissonDraws(seed=self.seed)
        for frame in frames("biases"):
            names = [name for name in frame if name not in ("item", "gold")]
            for line in frame.to_dict("records"):
                draws.add(line["item"], line["gold"], {str(n): np.asarray(line[n], np.float64) for n in names})
        first = next(frames("items")).iloc[0]
        means: dict[str, Means] = {when: partial(_named, draws, when) for when in WHEN}
        accuracy, low, high = estimate(means[WHEN[0]]("majority", None)[:, 0])
        prompts = sum(draws.counts.values())
        chance = max(draws.counts.values()) / prompts
        task = {"prompts": prompts, "accuracy": accuracy, "low": low, "high": high, "chance": chance}
        found = {"task": pd.DataFrame([{**task, "does_task": low > chance}])}
        measured = (pd.DataFrame(),) * 3
        if low > chance:
            orders = orders_measured(first["sequence"].tolist(), None, self.seed)
            measured = bias_tables(means, list(first["labels"]), orders)
        return {**found, **dict(zip(("biases", "changes", "orders"), measured, strict=True))}


@typechecked
def icl_items(prompts: Sequence[IclPrompt]) -> Items:
    """Return balanced in-context prompts as what a study is about.

    Raises:
        ValueError: If there is none, labels differ, or prompts are not balanced.
    """
    require_alike(prompts)
    require_balanced(prompts)
    rows = [_row(prompt) for prompt in prompts]
    return Items(fingerprint_of_texts(repr(row) for row in rows), lambda _: pd.DataFrame(rows))


def _row(prompt: IclPrompt) -> dict[str, Any]:
    return {
        "texts": [text for text, _ in prompt.demonstrations],
        "sequence": list(prompt.sequence),
        "query": prompt.query,
        "gold": prompt.gold,
        "labels": list(prompt.labels),
        "separator": prompt.separator,
        "end": prompt.end,
        "classes": list(prompt.classes),
    }


def _prompt(model: Any, row: Mapping[Any, Any]) -> IclPrompt:
    demonstrations = tuple(zip(row["texts"].tolist(), row["sequence"].tolist(), strict=True))
    labels, classes = (tuple(row[name].tolist()) for name in ("labels", "classes"))
    return tokenised(
        model, demonstrations, row["query"], row["gold"], labels, row["separator"], row["end"], classes
    )  # fmt: skip


def _named(draws: PoissonDraws, when: str, name: str, gold: int | None) -> Any:
    return draws.means(f"{when} {name}", gold)
