"""The two biases of in-context classification, before and after correction (paper 2, Tables 7 and 8; second-hand).

* **Majority label**: the change of accuracy when one demonstration is removed from a balanced prompt. The model
  predicts that demonstration's label less often: accuracy falls where the label is right and rises where it is wrong,
  so the total may not change while the labels move apart. Everything is also reported by right label.
* **Recency**: the standard deviation of accuracy over the orders of the labels, and of the attention that each
  demonstration's label gets in the in-context heads.

Which orders the paper takes, and how exactly it computes the deviation of attention, is unknown to us: both are our
reading.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.incontext.bias_measures import (
    MEAN_OF_LABELS,
    WHEN,
    Means,
    bias_tables,
    prompt_values,
    run_conditions,
)
from tl_neuron_attr.incontext.icl_batches import require_alike
from tl_neuron_attr.incontext.icl_prompt import IclPrompt
from tl_neuron_attr.incontext.majority_correction import HEADS_FIX, majority_correction
from tl_neuron_attr.incontext.outcomes import BATCH_SIZE, Among, Correction, Hook, outcomes
from tl_neuron_attr.incontext.position_free_attention import position_free_attention
from tl_neuron_attr.incontext.resampling import Resampled
from tl_neuron_attr.incontext.variants import arranged, label_sequences, one_removed
from tl_neuron_attr.model.components import Head, NamedHeads, required_heads
from tl_neuron_attr.results.intervals import ENDS, interval, shown_interval
from tl_neuron_attr.results.plural import plural
from tl_neuron_attr.results.table import PrintsAsTable, Table

MOST_ORDERS = 24
"""The most orders by default, a random choice if there are more: three labels, two of each, already have 90."""


_STYLES = (("before", ".3f"), ("after", ".3f"), ("change", "+.0f"))


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class IclBiases(PrintsAsTable):
    """Both biases before and after, with 95 % bootstrap intervals over prompts.

    Attributes:
        frame: One row per ``bias`` (``majority``, ``recency``), ``measure`` and ``gold`` (a right label, ``all`` or
            ``mean of labels``): ``before``, ``after`` and ``change`` in per cent, each with ``_low`` and ``_high``.
            Measures of majority: ``accuracy`` (of the balanced prompts), ``fluctuation`` (mean absolute change of
            accuracy when a demonstration is removed), ``gap`` (change where the other label loses one, less that where
            the right one does). Of recency: ``accuracy`` (mean over orders), ``deviation`` (of accuracy over orders),
            ``attention`` (to a demonstration's label, mean) and ``attention deviation`` (over orders). Of both:
            ``in vocabulary``, ``among labels`` (the accuracy either way) and ``log-odds`` (of the right label, in nats;
            its change in per cent is NaN).
        changes: Accuracy changes: ``gold``, ``removed`` (the label that lost a demonstration), ``when`` (``before``,
            ``after``), ``value``, ``low``, ``high``.
        orders: Accuracies: ``gold``, ``order`` (the labels in order), ``when``, ``value``, ``low``, ``high``.
        labels: The label words.
        heads: The heads that were corrected.
        prompts: The number of prompts.
        accuracy: The untouched model's accuracy on them, with its interval.
        chance: The accuracy of always giving the most frequent label.
        does_task: Whether that accuracy is above chance by more than its interval; if not, nothing is measured.
    """

    frame: pd.DataFrame
    changes: pd.DataFrame
    orders: pd.DataFrame
    labels: tuple[str, ...]
    heads: tuple[Head, ...]
    prompts: int
    accuracy: tuple[float, float, float]
    chance: float
    does_task: bool

    def to_frame(self) -> pd.DataFrame:
        """Return one row per bias, measure and right label."""
        return self.frame

    @typechecked
    def value(self, bias: str, measure: str, gold: str = MEAN_OF_LABELS) -> dict[str, float]:
        """Return one row's numbers.

        Raises:
            KeyError: If there is no such row.
        """
        rows = self.frame[
            (self.frame["bias"] == bias) & (self.frame["measure"] == measure) & (self.frame["gold"] == gold)
        ]
        if rows.empty:
            raise KeyError(f"no {measure!r} of {bias!r} for {gold!r} in this report")
        return {str(name): float(value) for name, value in rows.iloc[0].iloc[3:].items()}

    def table(self) -> Table:
        """Return a table of every row, or one that says that the model does not do the task."""
        reached = f"accuracy {shown_interval(*self.accuracy)}, chance {self.chance:.3f}"
        if not self.does_task:
            return Table(("biases",), [("none measured",)], "the model does not do this task: " + reached)
        rows = [
            (r["bias"], r["measure"], r["gold"], *(_cell(r, name, style) for name, style in _STYLES))
            for r in self.frame.to_dict("records")
        ]  # fmt: skip
        heads, prompts = plural(len(self.heads), "head"), plural(self.prompts, "prompt")
        caption = f"biases before and after correction of {heads}, {prompts}; {reached}"
        return Table(("bias", "measure", "right label", "before", "after", "change, %"), rows, caption)


@typechecked
@torch.no_grad()
def icl_biases(
    model: Any,
    prompts: Sequence[IclPrompt],
    heads: NamedHeads,
    *,
    majority: Correction | None = None,
    recency: Correction | None = None,
    among: Among = "vocabulary",
    orders: Sequence[Sequence[int]] | None = None,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    progress: bool = True,
) -> IclBiases:
    """Measure majority-label and recency bias before and after their corrections, overall and by right label.

    The paper measures both (second-hand); the formulas are our reading. Standard deviations and absolute values of
    noisy means are too large, the more so the fewer prompts there are; ``gap`` is not biased in this way.

    Args:
        model: The model.
        prompts: Balanced prompts, all with the same number of demonstrations per label, at least two.
        heads: The heads to correct, as found by :func:`in_context_heads`; attention is measured in them.
        majority: A function from the prompts of a batch to hooks; by default :func:`majority_correction` of the heads.
        recency: The same; by default :func:`position_free_attention` of the heads at the prompts' last positions.
        among: Whether a right answer must be the likeliest of all tokens, or only of the labels.
        orders: Label sequences such as ``[0, 0, 1, 1]``; by default all, at most 24.
        batch_size: The most prompts in one forward pass.
        seed: The seed of the bootstrap, and of the orders if there are more than 24.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If prompts are not balanced or differ in their counts, ``heads`` is empty, or an order does not fit.
        IndexError: If a head is out of range or named twice.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompts = tna.incontext.from_demo(model, tna.demo.in_context(40, 4, counts=(2, 2)))
        >>> report = icl_biases(model, prompts, [(3, 4), (3, 7)], progress=False)
        >>> report.does_task, round(report.accuracy[0], 2), report.chance
        (True, 0.95, 0.55)
    """
    require_alike(prompts)
    named, labels = required_heads(model, heads, fix=HEADS_FIX), prompts[0].labels
    require_balanced(prompts)
    gold = torch.tensor([prompt.gold for prompt in prompts])
    chance = float(torch.bincount(gold).max()) / len(prompts)
    sequences = orders_measured(prompts[0].sequence, orders, seed)
    reached = interval(pd.Series(outcomes(model, prompts, batch_size=batch_size).right(among).double().tolist()))
    if not reached[1] > chance:  # no interval, no evidence
        empty = pd.DataFrame()
        return IclBiases(empty, empty, empty, labels, tuple(named), len(prompts), reached, chance, False)
    sets = len(WHEN) * (1 + len(prompts[0].sequence) + len(sequences))
    with tqdm(total=sets, desc="biases", unit="set", disable=not progress) as bar:
        values = bias_values(
            model, prompts, named, sequences, majority=majority, recency=recency, among=among, batch_size=batch_size,
            done=bar.update,
        )  # fmt: skip
    sample = Resampled(gold, len(labels), seed=seed)
    means: dict[str, Means] = {when: partial(_means, sample, of) for when, of in values.items()}
    tables = bias_tables(means, labels, sequences)
    return IclBiases(*tables, labels, tuple(named), len(prompts), reached, chance, True)


def bias_values(
    model: Any,
    prompts: Sequence[IclPrompt],
    heads: Sequence[Head],
    sequences: Sequence[Sequence[int]],
    *,
    majority: Correction | None,
    recency: Correction | None,
    among: Among,
    batch_size: int,
    done: Any = None,
) -> dict[str, dict[str, Float[Tensor, "_ prompt"]]]:
    """Return what the measures are means of, before and after the corrections, by name, one column per prompt."""
    removed = one_removed(model, prompts)
    without = [list(prompts), *[[variants[i] for variants in removed] for i in range(len(removed[0]))]]
    ordered = [arranged(model, prompts, sequence) for sequence in sequences]
    corrections: dict[str, tuple[Correction | None, Correction | None]] = {
        "before": (None, None),
        "after": (majority or partial(_majority, model, heads), recency or partial(_recency, model, heads)),
    }
    run = partial(run_conditions, model, heads=heads, among=among, batch_size=batch_size, done=done)
    return {
        when: prompt_values(run(without, correction=first), run(ordered, correction=second), prompts)
        for when, (first, second) in corrections.items()
    }


def _means(
    sample: Resampled, values: Mapping[str, Float[Tensor, "_ prompt"]], name: str, gold: int | None
) -> Float[Tensor, "draw _"]:
    return sample.means(values[name], gold)


def _majority(model: Any, heads: Sequence[Head], prompts: Sequence[IclPrompt]) -> list[Hook]:
    return majority_correction(model, prompts, heads)


def _recency(model: Any, heads: Sequence[Head], prompts: Sequence[IclPrompt]) -> list[Hook]:
    return position_free_attention(model, heads, prompts=prompts)


def require_balanced(prompts: Sequence[IclPrompt]) -> None:
    """Check that all prompts show every label equally often, at least twice, and that every label is right in some.

    Raises:
        ValueError: Naming the counts, or the labels.
    """
    counts = {prompt.counts for prompt in prompts}
    if len(counts) > 1 or len(set(next(iter(counts)))) > 1 or min(next(iter(counts))) < 2:
        raise ValueError(
            f"prompts must all have as many demonstrations of each label, at least two; they have {sorted(counts)}: "
            "draw them with counts=(2, 2), or use balanced(model, prompts)"
        )
    if len(golds := {prompt.gold for prompt in prompts}) < len(prompts[0].labels):
        missing = [word for i, word in enumerate(prompts[0].labels) if i not in golds]
        raise ValueError(f"{missing} is right in none of the prompts: give prompts of every right label")


def orders_measured(
    sequence: Sequence[int], orders: Sequence[Sequence[int]] | None, seed: int
) -> list[tuple[int, ...]]:
    """Return the orders to measure of prompts with these labels.

    Raises:
        ValueError: If there are fewer than two.
    """
    if orders is None:
        every = label_sequences(sequence)
        return (
            every if len(every) <= MOST_ORDERS else sorted(random.Random(f"orders {seed}").sample(every, MOST_ORDERS))
        )
    if len(orders) < 2:
        raise ValueError(f"orders must be at least two label sequences, got {list(orders)}")
    return [tuple(order) for order in orders]


def _cell(row: Mapping[Any, Any], name: str, style: str) -> str:
    """Return a value with its interval, or a dash if there was nothing to change."""
    return shown_interval(*(row[f"{name}{end}"] for end in ENDS), spec=style) if isfinite(row[name]) else "-"
