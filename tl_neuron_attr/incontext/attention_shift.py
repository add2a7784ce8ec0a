"""The attention-shift experiment (paper 2, Tables 5 and 6): if labels are reversed, what changes?

Two prompts differ only in their labels: ``S0 : bar S1 : bar S2 : foo S3 : foo S4 :`` and the same with foo and bar
exchanged. At the positions of each label, three quantities of a head are compared: its attention, its value-output
label difference, and their product. The paper finds that attention changes and the difference hardly does (second-hand;
the authors' page describes the design too).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.incontext.icl_batches import batch_of, icl_batches, require_alike
from tl_neuron_attr.incontext.icl_prompt import IclPrompt
from tl_neuron_attr.incontext.label_values import label_attention, label_logit_difference
from tl_neuron_attr.incontext.variants import reversed_labels
from tl_neuron_attr.model.cache_checks import needed_by
from tl_neuron_attr.model.components import Head, NamedHeads, required_heads
from tl_neuron_attr.model.run import run_at_last
from tl_neuron_attr.model.within import within
from tl_neuron_attr.results.intervals import change_interval, shown_interval
from tl_neuron_attr.results.plural import plural
from tl_neuron_attr.results.table import PrintsAsTable, Table

QUANTITIES = ("attention", "weighted", "unweighted")


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class AttentionShift(PrintsAsTable):
    """Attention to labels and what is copied from them, before and after the labels are reversed.

    Attributes:
        frame: One row per prompt, head and label: ``prompt``, ``layer``, ``head``, ``label``, and ``_before`` and
            ``_after`` of ``attention`` (summed over the label's positions), ``weighted`` (label difference times
            attention, summed, in nats) and ``unweighted`` (label difference, mean, in nats).
    """

    frame: pd.DataFrame

    def summary(self) -> pd.DataFrame:
        """Return one row per head and label: means before and after, the change in per cent and its 95 % interval."""
        rows: list[dict[str, Any]] = []
        for (layer, head, label), group in self.frame.groupby(["layer", "head", "label"], sort=False):
            row: dict[str, Any] = {"layer": layer, "head": head, "label": label}
            for name in QUANTITIES:
                before, after = (group[f"{name}_{when}"].to_numpy(dtype=float) for when in ("before", "after"))
                change, low, high = change_interval(before, after)
                row |= {f"{name}_before": before.mean(), f"{name}_after": after.mean()}
                row |= {f"{name}_change": change, f"{name}_low": low, f"{name}_high": high}
            rows.append(row)
        return pd.DataFrame(rows)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per prompt, head and label."""
        return self.frame

    def table(self) -> Table:
        """Return Tables 5 and 6 of the paper: changes in per cent, with 95 % bootstrap intervals over prompts."""
        ends = ("change", "low", "high")
        rows = [
            (
                f"L{row['layer']}H{row['head']}",
                row["label"],
                row["attention_before"],
                row["attention_after"],
                *(shown_interval(*(row[f"{q}_{end}"] for end in ends), spec="+.1f") for q in QUANTITIES),
            )
            for row in self.summary().to_dict("records")
        ]
        headings = ("head", "at", "attention", "reversed", *(f"{q}, %" for q in QUANTITIES))
        prompts = plural(self.frame["prompt"].nunique(), "prompt")
        return Table(headings, rows, f"{prompts} and the same with labels reversed")


@typechecked
@torch.no_grad()
def attention_shift(
    model: Any,
    prompts: Sequence[IclPrompt],
    heads: NamedHeads,
    *,
    others: Sequence[IclPrompt] | None = None,
    pair: tuple[int, int] = (0, 1),
    batch_size: int = 64,
) -> AttentionShift:
    """Measure what changes in heads when the labels of prompts are reversed (paper 2, Tables 5 and 6; second-hand).

    Args:
        model: The model.
        prompts: The first set. Without ``others``, prompts whose right label is not the first of ``pair`` are reversed
            first, so that it is the right label throughout the first set, as in the paper.
        heads: The heads to measure.
        others: The second set, each prompt as long as its partner; by default the first set with labels reversed.
        pair: The indices of the two labels to compare.
        batch_size: The most prompts in one forward pass.

    Raises:
        ValueError: If there is no head or prompt, no prompt has the first label of ``pair``, or the sets differ in
            number or length.
        IndexError: If a head or label is out of range.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompts = tna.incontext.from_demo(model, tna.demo.in_context(8, 4, counts=(2, 2)))
        >>> shift = attention_shift(model, prompts, [(3, 2)])
        >>> foo = shift.summary().iloc[0]  # attention to foo, when foo becomes the wrong label
        >>> foo["label"], bool(foo["attention_change"] < 0)
        ('foo', True)
    """
    heads = required_heads(model, heads)
    require_alike(prompts)
    for label in pair:
        within("pair", label, len(prompts[0].labels))
    before = list(prompts) if others is not None else _of_gold(model, prompts, pair[0])
    after = reversed_labels(model, before) if others is None else list(others)
    if not before:
        raise ValueError(f"no prompt's right label is {prompts[0].labels[pair[0]]!r}, reversed or not: give others=")
    if [len(prompt) for prompt in before] != [len(prompt) for prompt in after]:
        raise ValueError(
            f"others must hold one prompt per prompt, each of its partner's length: got {len(after)} for {len(before)}"
        )
    frames: list[pd.DataFrame] = []
    for batch in icl_batches(model, before, batch_size=batch_size):
        sides = [_measured(model, [group[i] for i in batch.indices], heads, pair) for group in (before, after)]
        frame = sides[0].merge(sides[1], on=["row", "layer", "head", "label"], suffixes=("_before", "_after"))
        frames.append(frame.assign(prompt=[batch.indices[row] for row in frame["row"]]))
    joined = pd.concat(frames, ignore_index=True).drop(columns="row")
    order = ["prompt", "layer", "head", "label"]
    return AttentionShift(joined[[*order, *(c for c in joined.columns if c not in order)]])


def _of_gold(model: Any, prompts: Sequence[IclPrompt], gold: int) -> list[IclPrompt]:
    """Return the prompts with this right label, reversed if that gives it to them; the rest are left out."""
    relabelled = reversed_labels(model, prompts)
    chosen = [prompt if prompt.gold == gold else other for prompt, other in zip(prompts, relabelled, strict=True)]
    return [prompt for prompt in chosen if prompt.gold == gold]


def _measured(model: Any, prompts: Sequence[IclPrompt], heads: Sequence[Head], pair: tuple[int, int]) -> pd.DataFrame:
    """Return the three quantities of each head and label of the pair, one row per prompt."""
    tokens, mask = batch_of(model, prompts).inputs()
    _, cache = run_at_last(model, tokens, needed_by(("attn",)), **mask)
    attention = label_attention(cache, prompts, model=model)
    plain = label_logit_difference(cache, prompts, weighted=False, pair=pair, model=model)
    sequence = torch.tensor([prompt.sequence for prompt in prompts], device=plain.device)
    frames: list[pd.DataFrame] = []
    for layer, head in heads:
        for label in pair:
            columns = _at(attention[:, layer, head], plain[:, layer, head], sequence == label)
            names = {"layer": layer, "head": head, "label": prompts[0].labels[label], "row": range(len(prompts))}
            frames.append(pd.DataFrame(names | columns))
    return pd.concat(frames, ignore_index=True)


def _at(
    attention: Float[Tensor, "prompt label"], plain: Float[Tensor, "prompt label"], there: Bool[Tensor, "prompt label"]
) -> dict[str, list[float]]:
    return {
        "attention": (attention * there).sum(1).tolist(),
        "weighted": (attention * plain * there).sum(1).tolist(),
        "unweighted": ((plain * there).sum(1) / there.sum(1).clamp_min(1)).tolist(),
    }
