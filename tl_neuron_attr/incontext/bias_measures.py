"""The measures of the two biases: runs under each condition, and the numbers computed from them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from tl_neuron_attr.incontext.resampling import estimate, percent
from tl_neuron_attr.model.components import Head
from tl_neuron_attr.model.hook_points import hooks_of_patterns
from tl_neuron_attr.model.rerun import unembedding_last
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.results.intervals import named_interval

ALL_PROMPTS, MEAN_OF_LABELS = "all", "mean of labels"
"""The right label named in rows about all prompts together, and about the mean of the labels' own figures."""

WHEN = ("before", "after")

LEVELS = ("in vocabulary", "among labels", "log-odds")
"""What every report gives beside the accuracy: it over the vocabulary and among the labels, and the right label's
log-odds in nats."""

_Draws = Float[Tensor, "draw"]

Means = Callable[[str, int | None], Float[Tensor, "draw _"]]
"""The means of a named value over the prompts of one right label, or over all, with their bootstrap draws."""


@dataclass(frozen=True)
class ConditionOutcomes:
    """Right answers and attention under several conditions of the same prompts.

    Attributes:
        right: Whether the answer was right; a share if a condition is the mean of several.
        levels: What every report gives beside it, by the names of :data:`LEVELS`.
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
    each = ([o.right("vocabulary") for o in found], [o.right("labels") for o in found], [o.log_odds for o in found])
    levels = {name: torch.stack(values).double().cpu() for name, values in zip(LEVELS, each, strict=True)}
    return ConditionOutcomes(levels[LEVELS[0] if among == "vocabulary" else LEVELS[1]], levels, attention)


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


def prompt_values(
    removals: ConditionOutcomes, orders: ConditionOutcomes, prompts: Sequence[IclPrompt]
) -> dict[str, Float[Tensor, "_ prompt"]]:
    """Return all that the measures are means of, by name.

    Args:
        removals: The balanced prompts, then each without one demonstration.
        orders: The prompts in each order of labels.
        prompts: The balanced prompts.
    """
    attention = torch.stack(list(orders.attention))
    return {
        "majority": accuracy_by_removed_label(removals.right, prompts),
        **{f"majority {level}": values[:1] for level, values in removals.levels.items()},
        "recency": orders.right,
        **{f"recency {level}": values for level, values in orders.levels.items()},
        "attention": attention.mean((0, 2, 3))[None],
        "attention deviation": attention.std(0, correction=0).mean((1, 2))[None],
    }


def bias_measures(means: Means, labels: Sequence[str]) -> dict[tuple[str, str, str], _Draws]:
    """Return every measure by bias, name and right label, with its bootstrap draws, from :func:`prompt_values`."""
    found: dict[tuple[str, str, str], _Draws] = {}
    for gold, name in [*enumerate(labels), (None, ALL_PROMPTS)]:
        by_removed, by_order = means("majority", gold), means("recency", gold)
        found["majority", "accuracy", name] = by_removed[:, 0]
        moved = by_removed[:, 1:] - by_removed[:, :1]
        found["majority", "fluctuation", name] = moved.abs().mean(-1)
        if gold is not None:
            others = [label for label in range(len(labels)) if label != gold]
            found["majority", "gap", name] = moved[:, others].mean(-1) - moved[:, gold]
        for level in LEVELS:
            found["majority", level, name] = means(f"majority {level}", gold)[:, 0]
        found["recency", "accuracy", name] = by_order.mean(-1)
        for level in LEVELS:
            found["recency", level, name] = means(f"recency {level}", gold).mean(-1)
        found["recency", "deviation", name] = by_order.std(-1, correction=0)
        for measure in ("attention", "attention deviation"):
            found["recency", measure, name] = means(measure, gold)[:, 0]
    for bias, measure in dict.fromkeys((bias, measure) for bias, measure, _ in found):
        found[bias, measure, MEAN_OF_LABELS] = torch.stack([found[bias, measure, name] for name in labels]).mean(0)
    return found


def bias_tables(
    means: Mapping[str, Means], labels: Sequence[str], orders: Sequence[Sequence[int]]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return every measure, the change of accuracy by removed label, and the accuracy by order, before and after."""
    return (
        before_and_after(*(bias_measures(means[when], labels) for when in WHEN)),
        accuracy_changes(means, labels),
        accuracy_by_order(means, labels, orders),
    )


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


def accuracy_changes(means: Mapping[str, Means], labels: Sequence[str]) -> pd.DataFrame:
    """Return one row per right label, removed label and time: the change of accuracy."""
    rows: list[dict[str, Any]] = []
    for when, name, draws in _by_label(means, labels, "majority"):
        for label, removed in enumerate(labels):
            value, low, high = estimate(draws[:, 1 + label] - draws[:, 0])
            rows.append({"gold": name, "removed": removed, "when": when, "value": value, "low": low, "high": high})
    return pd.DataFrame(rows)


def accuracy_by_order(
    means: Mapping[str, Means], labels: Sequence[str], orders: Sequence[Sequence[int]]
) -> pd.DataFrame:
    """Return one row per right label, order and time: the accuracy."""
    rows: list[dict[str, Any]] = []
    for when, name, draws in _by_label(means, labels, "recency"):
        for i, order in enumerate(orders):
            value, low, high = estimate(draws[:, i])
            words = " ".join(labels[label] for label in order)
            rows.append({"gold": name, "order": words, "when": when, "value": value, "low": low, "high": high})
    return pd.DataFrame(rows)


def _by_label(
    means: Mapping[str, Means], labels: Sequence[str], value: str
) -> Iterator[tuple[str, str, Float[Tensor, "draw _"]]]:
    for when, of in means.items():
        for gold, name in [*enumerate(labels), (None, ALL_PROMPTS)]:
            yield when, name, of(value, gold)


def _intervals(columns: Mapping[str, _Draws]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, draws in columns.items():
        found |= named_interval(name, estimate(draws))
    return found
