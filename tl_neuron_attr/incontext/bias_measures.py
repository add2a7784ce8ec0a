"""The measures of the two biases: runs under each condition, and the numbers computed from them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr.incontext.icl_batches import icl_batches, positions_of_labels
from tl_neuron_attr.incontext.icl_prompt import IclPrompt
from tl_neuron_attr.incontext.label_values import at_labels, last_attention
from tl_neuron_attr.incontext.outcomes import Among, Correction, Outcomes, joined
from tl_neuron_attr.incontext.resampling import Resampled, estimate, percent
from tl_neuron_attr.model.components import Head
from tl_neuron_attr.model.hook_points import hooks_of_patterns
from tl_neuron_attr.model.rerun import unembedding_last
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.results.intervals import named_interval

ALL_PROMPTS, MEAN_OF_LABELS = "all", "mean of labels"
"""The right label named in rows about all prompts together, and about the mean of the labels' own figures."""

WHEN = ("before", "after")

_Draws = Float[Tensor, "draw"]


@dataclass(frozen=True)
class ConditionOutcomes:
    """Right answers and attention under several conditions of the same prompts.

    Attributes:
        right: Whether the answer was right; a share if a condition is the mean of several.
        levels: Means that every report gives beside it, by name: the accuracy over the vocabulary and among the labels,
            and the log-odds of the right label in nats.
        attention: Attention from the last position to each demonstration's label, demonstrations sorted by label; one
            tensor per condition.
    """

    right: Float[Tensor, "condition prompt"]
    levels: Mapping[str, Float[Tensor, "condition prompt"]]
    attention: Sequence[Float[Tensor, "prompt head _"]]


def run_conditions(
    model: Any,
    conditions: Sequence[Sequence[IclPrompt]],
    heads: Sequence[Head],
    correction: Correction | None,
    *,
    among: Among,
    batch_size: int,
    done: Any = None,
) -> ConditionOutcomes:
    """Run every condition, under a correction's hooks if there is one; call ``done`` after each."""
    wanted = hooks_of_patterns(layer for layer, _ in heads)
    found: list[Outcomes] = []
    attention: list[Tensor] = []
    for prompts in conditions:
        batches: list[tuple[list[int], Outcomes]] = []
        seen: list[Tensor] = []
        for batch in icl_batches(model, prompts, batch_size=batch_size):
            chosen = [prompts[i] for i in batch.indices]
            tokens, mask = batch.inputs()
            hooks = [] if correction is None else correction(chosen)
            with model.hooks(fwd_hooks=hooks), unembedding_last(model, tokens):
                logits, cache = model.run_with_cache(tokens, names_filter=wanted, **mask)
            gold = torch.tensor([prompt.gold for prompt in chosen], device=logits.device)
            of_batch = Outcomes.of(logits[:, 0], chosen[0].label_ids, gold)
            batches.append((batch.indices, of_batch))
            seen.append(_attention(Stream(cache, model), chosen, heads))
        found.append(joined(batches))
        attention.append(torch.cat(seen)[torch.tensor([i for indices, _ in batches for i in indices]).argsort()])
        if done is not None:
            done()
    levels = {
        "in vocabulary": torch.stack([each.right("vocabulary").double().cpu() for each in found]),
        "among labels": torch.stack([each.right("labels").double().cpu() for each in found]),
        "log-odds": torch.stack([each.log_odds.double().cpu() for each in found]),
    }
    return ConditionOutcomes(levels["in vocabulary" if among == "vocabulary" else "among labels"], levels, attention)


def _attention(
    stream: Stream, prompts: Sequence[IclPrompt], heads: Sequence[Head]
) -> Float[Tensor, "prompt head label"]:
    """Return the attention to labels in some heads; demonstrations are sorted by label, stably."""
    places = positions_of_labels(stream, prompts)
    by_label = torch.tensor([sorted(range(len(p.sequence)), key=lambda i, p=p: p.sequence[i]) for p in prompts])
    places = places.gather(1, by_label.to(places.device))
    rows = [at_labels(last_attention(stream, layer)[:, [head]], places) for layer, head in heads]
    return torch.cat(rows, dim=1).double().cpu()


def accuracy_by_removed_label(
    right: Float[Tensor, "condition prompt"], prompts: Sequence[IclPrompt]
) -> Float[Tensor, "label prompt"]:
    """Return the balanced prompt's value, then the means over removals of the first label, of the second, ..."""
    columns: list[Tensor] = []
    for i, prompt in enumerate(prompts):
        lost = torch.tensor(prompt.sequence)
        means = [right[1:, i][lost == label].mean() for label in range(len(prompt.labels))]
        columns.append(torch.stack([right[0, i], *means]))
    return torch.stack(columns, dim=1)


def bias_measures(
    sample: Resampled,
    labels: Sequence[str],
    majority: Float[Tensor, "condition prompt"],
    recency: ConditionOutcomes,
    balanced: Mapping[str, Float[Tensor, "prompt"]],
) -> dict[tuple[str, str, str], _Draws]:
    """Return every measure by bias, name and right label, with its bootstrap draws.

    Args:
        sample: The draws.
        labels: The label words.
        majority: From :func:`accuracy_by_removed_label`.
        recency: The orders.
        balanced: The levels of the balanced prompts.
    """
    attention = torch.stack(list(recency.attention))
    deviation, mean = attention.std(0, correction=0).mean((1, 2))[None], attention.mean((0, 2, 3))[None]
    found: dict[tuple[str, str, str], _Draws] = {}
    for gold, name in [*enumerate(labels), (None, ALL_PROMPTS)]:
        by_removed, by_order = sample.means(majority, gold), sample.means(recency.right, gold)
        found["majority", "accuracy", name] = by_removed[:, 0]
        moved = by_removed[:, 1:] - by_removed[:, :1]
        found["majority", "fluctuation", name] = moved.abs().mean(-1)
        if gold is not None:
            others = [label for label in range(len(labels)) if label != gold]
            found["majority", "gap", name] = moved[:, others].mean(-1) - moved[:, gold]
        for level, of_balanced in balanced.items():
            found["majority", level, name] = sample.means(of_balanced[None], gold)[:, 0]
        found["recency", "accuracy", name] = by_order.mean(-1)
        for level, values in recency.levels.items():
            found["recency", level, name] = sample.means(values, gold).mean(-1)
        found["recency", "deviation", name] = by_order.std(-1, correction=0)
        found["recency", "attention", name] = sample.means(mean, gold)[:, 0]
        found["recency", "attention deviation", name] = sample.means(deviation, gold)[:, 0]
    for bias, measure in dict.fromkeys((bias, measure) for bias, measure, _ in found):
        found[bias, measure, MEAN_OF_LABELS] = torch.stack([found[bias, measure, name] for name in labels]).mean(0)
    return found


def before_and_after(
    before: Mapping[tuple[str, str, str], _Draws], after: Mapping[tuple[str, str, str], _Draws]
) -> pd.DataFrame:
    """Return one row per measure: before, after and the change in per cent, each with its interval."""
    kinds = list(dict.fromkeys(key[:2] for key in before))
    rows: list[dict[str, Any]] = []
    for key in sorted(before, key=lambda key: (key[0], kinds.index(key[:2]))):
        share = torch.full_like(before[key], torch.nan) if key[1] == "log-odds" else percent(before[key], after[key])
        columns = {"before": before[key], "after": after[key], "change": share}
        rows.append(dict(zip(("bias", "measure", "gold"), key, strict=True)) | _intervals(columns))
    return pd.DataFrame(rows)


def accuracy_changes(
    sample: Resampled, labels: Sequence[str], right: Mapping[str, Float[Tensor, "condition prompt"]]
) -> pd.DataFrame:
    """Return one row per right label, removed label and time: the change of accuracy."""
    rows: list[dict[str, Any]] = []
    for when, name, means in _means(sample, labels, right):
        for label, removed in enumerate(labels):
            value, low, high = estimate(means[:, 1 + label] - means[:, 0])
            rows.append({"gold": name, "removed": removed, "when": when, "value": value, "low": low, "high": high})
    return pd.DataFrame(rows)


def accuracy_by_order(
    sample: Resampled,
    labels: Sequence[str],
    right: Mapping[str, Float[Tensor, "condition prompt"]],
    orders: Sequence[Sequence[int]],
) -> pd.DataFrame:
    """Return one row per right label, order and time: the accuracy."""
    rows: list[dict[str, Any]] = []
    for when, name, means in _means(sample, labels, right):
        for i, order in enumerate(orders):
            value, low, high = estimate(means[:, i])
            words = " ".join(labels[label] for label in order)
            rows.append({"gold": name, "order": words, "when": when, "value": value, "low": low, "high": high})
    return pd.DataFrame(rows)


def _means(
    sample: Resampled, labels: Sequence[str], right: Mapping[str, Float[Tensor, "condition prompt"]]
) -> Iterator[tuple[str, str, Float[Tensor, "draw condition"]]]:
    for when, values in right.items():
        for gold, name in [*enumerate(labels), (None, ALL_PROMPTS)]:
            yield when, name, sample.means(values, gold)


def _intervals(columns: Mapping[str, _Draws]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, draws in columns.items():
        found |= named_interval(name, estimate(draws))
    return found
