"""Do the towers learn a metric? Same-class and other-class pairs by a head's score, and by cosine before the towers.

If a head's towers measure similarity, demonstrations of the query's class score higher than those of another class, and
the scores separate the classes better than the cosine of the streams that the towers read. Both are measured by the AUC
inside a prompt: how often a demonstration of the right label scores above one of another label,

    AUC = mean over prompts of P(s_same > s_other) + P(s_same = s_other) / 2,

which needs no threshold and, like the softmax, does not change if a query adds the same to all demonstrations. The
measure is ours: the paper states the hypothesis (second-hand); how it was tested is unknown to us.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.incontext.icl_batches import icl_batches, positions_of_labels
from tl_neuron_attr.incontext.icl_prompt import IclPrompt
from tl_neuron_attr.incontext.label_values import label_attention
from tl_neuron_attr.incontext.two_towers import label_scores, needed_by_towers
from tl_neuron_attr.model.components import Head, NamedHeads, required_heads
from tl_neuron_attr.model.run import run_at_last
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.results.intervals import ENDS, interval, named_interval, shown_interval
from tl_neuron_attr.results.plural import plural
from tl_neuron_attr.results.table import PrintsAsTable, Table

MEASURES = ("score", "cosine", "centred")
_SHOWN = 12


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class LearnedMetric(PrintsAsTable):
    """The score and the cosine of query and demonstration, pair by pair.

    Attributes:
        frame: One row per prompt, head and demonstration: ``prompt``, ``layer``, ``head``, ``demonstration``, ``label``
            (its word), ``same`` (whether that is the right label), ``score`` (the model's, before the softmax),
            ``attention``, ``cosine`` (of the streams that the head reads at the last position and at the label), and
            ``centred`` (the cosine of their differences from the mean stream over prompts, at the last position and at
            each label word).
    """

    frame: pd.DataFrame

    def summary(self) -> pd.DataFrame:
        """Return one row per head: ``layer``, ``head``, ``same`` and ``other`` (mean scores), and of score,
        cosine and centred cosine the ``auc`` inside prompts with its 95 % interval over prompts (``auc_low``,
        ``cosine_auc``, ...), and how often the label of the greatest mean is right (``accuracy``,
        ``cosine_accuracy``, ...). ``gain`` is the score's AUC less cosine's, prompt by prompt, with its
        interval."""
        rows: list[dict[str, Any]] = []
        for (layer, head), group in self.frame.groupby(["layer", "head"], sort=False):
            means = group.groupby("same")["score"].mean()
            row: dict[str, Any] = {"layer": layer, "head": head, "same": means[True], "other": means[False]}
            aucs = {measure: _aucs(group, measure) for measure in MEASURES}
            for measure, of_prompts in aucs.items():
                name = "" if measure == "score" else f"{measure}_"
                row |= named_interval(f"{name}auc", interval(of_prompts))
                row[f"{name}accuracy"] = _accuracy(group, measure)
            rows.append(row | named_interval("gain", interval(aucs["score"] - aucs["cosine"])))
        return pd.DataFrame(rows)

    @property
    def best(self) -> Head:
        """Return the ``(layer, head)`` with the greatest AUC, whose scores separate the classes best."""
        first = self.summary().sort_values("auc", ascending=False, kind="stable").iloc[0]
        return int(first["layer"]), int(first["head"])

    def to_frame(self) -> pd.DataFrame:
        """Return one row per prompt, head and demonstration."""
        return self.frame

    def table(self) -> Table:
        """Return a table of the heads, best AUC first, beside the cosine before their towers."""
        summary = self.summary().sort_values("auc", ascending=False, kind="stable")
        rows = [
            (
                f"L{row['layer']:.0f}H{row['head']:.0f}",
                f"{row['same']:+.2f}",
                f"{row['other']:+.2f}",
                *(shown_interval(*(row[f"{q}{end}"] for end in ENDS)) for q in ("auc", "cosine_auc")),
                f"{row['centred_auc']:.3f}",
                shown_interval(*(row[f"gain{end}"] for end in ENDS), spec="+.3f"),
                f"{row['accuracy']:.3f}",
            )
            for row in summary.head(_SHOWN).to_dict("records")
        ]
        more = f", the best {_SHOWN} of {len(summary)} heads" if len(summary) > _SHOWN else ""
        prompts = plural(self.frame["prompt"].nunique(), "prompt")
        caption = f"similarity of query and demonstrations over {prompts}{more}"
        headings = ("same class", "other class", "AUC of the score", "of cosine before", "centred", "gain", "accuracy")
        return Table(("head", *headings), rows, f"{caption}; chance is 0.5")


@typechecked
@torch.no_grad()
def learned_metric(
    model: Any, prompts: Sequence[IclPrompt], *, heads: NamedHeads | None = None, batch_size: int = 64
) -> LearnedMetric:
    """Measure how well heads' scores, and cosine before their towers, separate the query's class from the others.

    Args:
        model: The model.
        prompts: Prompts with one set of labels, each with demonstrations of the right label and of another.
        heads: The heads; all by default.
        batch_size: The most prompts in one forward pass.

    Raises:
        ValueError: If there is no head or prompt, a prompt does not show its right label, or the architecture hides its
            scores.
        IndexError: If a head is out of range.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompts = tna.incontext.from_demo(model, tna.demo.in_context(8, 4, counts=(2, 2)))
        >>> found = learned_metric(model, prompts, heads=[(2, 4)]).summary()
        >>> bool(found.loc[0, "auc"] > 0.5)  # better than chance
        True
    """
    chosen = required_heads(model, heads)
    for i, prompt in enumerate(prompts):
        if not prompt.counts[prompt.gold]:
            raise ValueError(f"prompts[{i}] has no demonstration of its right label, {prompt.labels[prompt.gold]!r}")
    layers = sorted({layer for layer, _ in chosen})
    order: list[int] = []
    measured_batches: list[_BatchMeasures] = []
    for batch in icl_batches(model, prompts, batch_size=batch_size):
        tokens, mask = batch.inputs()
        _, cache = run_at_last(model, tokens, needed_by_towers, **mask)
        measured_batches.append(
            _measure_batch(Stream(cache, model), [prompts[i] for i in batch.indices], chosen, layers)
        )
        order += batch.indices
    words = torch.cat([batch.words for batch in measured_batches])
    last, keys = (torch.cat([getattr(batch, name) for batch in measured_batches]) for name in ("last", "keys"))
    cosines = {"cosine": _cosine(last, keys), "centred": _cosine(last - last.mean(0), _centred(keys, words))}
    own = torch.tensor([layers.index(layer) for layer, _ in chosen], device=last.device)
    measured = {
        name: torch.cat([getattr(batch, name) for batch in measured_batches]) for name in ("score", "attention")
    }
    return LearnedMetric(_frame([prompts[i] for i in order], order, chosen, measured, cosines, own))


@dataclass(frozen=True)
class _BatchMeasures:
    """The scores, attention and streams of one batch."""

    score: Float[Tensor, "prompt head label"]
    attention: Float[Tensor, "prompt head label"]
    last: Float[Tensor, "prompt layer d_model"]
    keys: Float[Tensor, "prompt layer label d_model"]
    words: Tensor


def _measure_batch(
    stream: Stream, prompts: Sequence[IclPrompt], heads: Sequence[Head], layers: Sequence[int]
) -> _BatchMeasures:
    at = positions_of_labels(stream, prompts)
    rows = torch.arange(len(prompts), device=at.device)[:, None]
    streams = [stream.resid_pre(layer) for layer in layers]
    picked = torch.tensor(heads, device=at.device).unbind(1)
    scores, attention = (read(stream.cache, prompts, model=stream.model) for read in (label_scores, label_attention))
    return _BatchMeasures(
        score=scores[:, picked[0], picked[1]],
        attention=attention[:, picked[0], picked[1]],
        last=torch.stack([resid[:, -1] for resid in streams], dim=1),
        keys=torch.stack([resid[rows, at] for resid in streams], dim=1),
        words=torch.tensor([prompt.sequence for prompt in prompts], device=at.device),
    )


def _cosine(
    last: Float[Tensor, "prompt layer d_model"], keys: Float[Tensor, "prompt layer label d_model"]
) -> Float[Tensor, "prompt layer label"]:
    return torch.cosine_similarity(last[:, :, None], keys, dim=-1)


def _centred(keys: Float[Tensor, "prompt layer label d_model"], words: Tensor) -> Tensor:
    """Return the streams at labels, minus the mean stream at labels of the same word."""
    centred = keys.clone()
    for word in words.unique():
        prompt, label = (words == word).nonzero(as_tuple=True)
        of_word = keys[prompt, :, label]
        centred[prompt, :, label] = of_word - of_word.mean(0)
    return centred


def _frame(
    prompts: Sequence[IclPrompt],
    order: Sequence[int],
    heads: Sequence[Head],
    measured: dict[str, Tensor],
    cosines: dict[str, Tensor],
    own: Tensor,
) -> pd.DataFrame:
    """Return one row per prompt, head and demonstration, with prompts in the given order."""
    numbers = range(len(prompts[0].demonstrations))
    index = pd.MultiIndex.from_product([order, range(len(heads)), numbers], names=["prompt", "row", "demonstration"])
    columns = measured | {name: values[:, own] for name, values in cosines.items()}
    frame = pd.DataFrame({name: values.flatten().tolist() for name, values in columns.items()}, index=index)
    frame = frame.reset_index()
    shown = dict(zip(order, prompts, strict=True))
    labels = [shown[p].sequence[d] for p, d in zip(frame["prompt"], frame["demonstration"], strict=True)]
    frame["layer"] = [heads[row][0] for row in frame["row"]]
    frame["head"] = [heads[row][1] for row in frame["row"]]
    frame["label"] = [prompts[0].labels[label] for label in labels]
    frame["same"] = [label == shown[p].gold for p, label in zip(frame["prompt"], labels, strict=True)]
    columns_in_order = ["prompt", "layer", "head", "demonstration", "label", "same", *measured, *cosines]
    return frame.sort_values(["prompt", "row"], kind="stable", ignore_index=True)[columns_in_order]


def _aucs(group: pd.DataFrame, measure: str) -> pd.Series:
    """Return for each prompt how often the right label's demonstrations score above others; ties count half."""

    def auc(prompt: pd.DataFrame) -> float:
        values, same = (torch.tensor(prompt[name].to_numpy()) for name in (measure, "same"))
        return _above(values[same], values[~same])

    return pd.Series([auc(prompt) for _, prompt in group.groupby("prompt")])


def _above(same: Float[Tensor, "n"], other: Float[Tensor, "m"]) -> float:
    """Return how often a value of ``same`` is above one of ``other``."""
    difference = same[:, None] - other[None]
    return float(((difference > 0).double() + (difference == 0).double() / 2).mean())


def _accuracy(group: pd.DataFrame, measure: str) -> float:
    """Return how often the label with the greatest mean is the right one; tied labels share the credit."""
    means = group.groupby(["prompt", "label", "same"])[measure].mean().reset_index()
    best = means[means[measure] == means.groupby("prompt")[measure].transform("max")]
    return float(best.groupby("prompt")["same"].mean().mean())
