"""Views of in-context heads: attention to labels, what is copied, scores, their split, the metric.

Two labels are compared everywhere: blue is the first of ``pair`` or raises it, red the second.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.incontext import (
    IclPrompt,
    LearnedMetric,
    TwoTowers,
    label_attention,
    label_logit_difference,
    label_scores,
)
from tl_neuron_attr.model.components import NamedHeads, head_name, required_head, required_heads
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.within import within
from tl_neuron_attr.results.token_text import visible
from tl_neuron_attr.vis.plots import grouped_bars, matrix
from tl_neuron_attr.vis.shaded_tokens import shaded_tokens
from tl_neuron_attr.vis.templates import render
from tl_neuron_attr.vis.view import View
from tl_neuron_attr.vis.views import tokens_of

FIRST, SECOND = "#2b6ca8", "#b2402f"
"""The colours of the two labels compared."""

_DECIMALS = 4
_LONGEST = 36
"""The most characters of a text that are shown beside a matrix, so that the matrix keeps half of the page."""


@typechecked
@torch.no_grad()
def label_sources(
    cache: ActivationCache,
    prompts: Sequence[IclPrompt],
    heads: NamedHeads,
    *,
    prompt: int = 0,
    pair: tuple[int, int] = (0, 1),
) -> View:
    """Draw each head's attention from the last position to the prompt's labels, one line per head.

    Labels are coloured by the attention they get, the first label of ``pair`` blue and the second red; what goes to
    all other tokens is given as a number.

    Args:
        cache: A cache of the prompts.
        prompts: The prompts, in the order of the cache, all with the same number of demonstrations.
        heads: ``(layer, head)`` pairs.
        prompt: Which prompt is shown.
        pair: The labels coloured, by index.

    Raises:
        IndexError: If a layer, head, prompt or label is out of range.
        ValueError: If ``heads`` is empty, or the cache is of other prompts.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompts = tna.incontext.from_demo(model, tna.demo.in_context(1, 4))
        >>> _, cache = model.run_with_cache(tna.incontext.batch_of(model, prompts).tokens)
        >>> label_sources(cache, prompts, [(2, 4)])
        View('attention to labels'): shown in a notebook; .save(path) writes a page
    """
    attention = label_attention(cache, prompts)
    stream = Stream(cache)
    heads = required_heads(stream.model, heads)
    within("prompt", prompt, len(prompts))
    asked = prompts[prompt]
    start = stream.shape[1] - len(asked)
    shown = tokens_of(stream, prompt)[start:]
    rows = attention if stream.batched else attention[None]
    lines: list[tuple[str, list[str], Markup]] = []
    for layer, head in heads:
        on_labels = rows[prompt, layer, head].cpu().round(decimals=_DECIMALS)
        values = torch.zeros(len(asked))
        for position, label, weight in zip(asked.label_positions, asked.sequence, on_labels, strict=True):
            values[position] = weight * _sign(label, pair)
        sums = [float(on_labels[[own == label for own in asked.sequence]].sum()) for label in pair]
        shares = [*zip((asked.labels[label] for label in pair), sums, strict=True), ("elsewhere", 1 - sum(sums))]
        percentages = [f"{visible(name)} {100 * share:.0f} %" for name, share in shares]
        drawn = shaded_tokens(shown, values.tolist(), largest=1.0, number_format="{:+.3g}")
        lines.append((head_name(layer, head), percentages, drawn))
    return View(render("labels.html.j2", lines=lines), "attention to labels")


@typechecked
@torch.no_grad()
def label_differences(
    cache: ActivationCache,
    prompts: Sequence[IclPrompt],
    heads: NamedHeads,
    *,
    weighted: bool = True,
    prompt: int | None = None,
    pair: tuple[int, int] = (0, 1),
) -> View:
    """Draw bars of what each head writes for the first label against the second, from each label position, in nats.

    Args:
        cache: A cache of the prompts.
        prompts: The prompts, in the order of the cache, all with the same number of demonstrations.
        heads: ``(layer, head)`` pairs.
        weighted: Whether value-output vectors are multiplied by attention.
        prompt: Which prompt is shown, position by position; by default the mean over prompts at each label.
        pair: The labels compared, by index.

    Raises:
        IndexError: If a layer, head, prompt or label is out of range.
        ValueError: If ``heads`` is empty, or the cache is of other prompts.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompts = tna.incontext.from_demo(model, tna.demo.in_context(1, 4))
        >>> _, cache = model.run_with_cache(tna.incontext.batch_of(model, prompts).tokens)
        >>> label_differences(cache, prompts, [(2, 4)])
        View('label differences'): shown in a notebook; .save(path) writes a page
    """
    found = label_logit_difference(cache, prompts, weighted=weighted, pair=pair).cpu()
    heads = required_heads(Stream(cache).model, heads)
    within("prompt", prompt or 0, len(prompts))
    found = found if cache.has_batch_dim else found[None]
    words, names = prompts[0].labels, [head_name(layer, head) for layer, head in heads]
    picked = torch.stack([found[:, layer, head] for layer, head in heads], dim=1)
    if prompt is None:
        sequence = torch.tensor([p.sequence for p in prompts])
        series = {f"at {visible(words[own])}": _mean_at(picked, sequence == own) for own in pair}
        colours = dict(zip(series, (FIRST, SECOND), strict=True))
    else:
        own = prompts[prompt].sequence
        series = {f"{i + 1}: {visible(words[label])}": picked[prompt, :, i].tolist() for i, label in enumerate(own)}
        colours = {name: SECOND if label == pair[1] else FIRST for name, label in zip(series, own, strict=True)}
    y = f"{'weighted ' if weighted else ''}logit({visible(words[pair[0]])}) − logit({visible(words[pair[1]])})"
    return View(grouped_bars(names, series, y=y, colours=colours), "label differences")


@typechecked
@torch.no_grad()
def score_matrix(cache: ActivationCache, prompts: Sequence[IclPrompt], *, layer: int, head: int) -> View:
    """Draw a head's scores of one prompt's demonstrations (rows) for several queries and their right labels (columns).

    Args:
        cache: A cache of the prompts.
        prompts: The same demonstrations with different queries: :func:`~tl_neuron_attr.incontext.with_query`.
        layer: The head's layer.
        head: The head.

    Raises:
        IndexError: If the head is out of range.
        ValueError: If the demonstrations differ, or the cache is of other prompts.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompt = tna.incontext.from_demo(model, tna.demo.in_context(1, 4))[0]
        >>> prompts = tna.incontext.with_query(model, prompt, [("great song", 0), ("awful plot", 1)])
        >>> _, cache = model.run_with_cache(tna.incontext.batch_of(model, prompts).tokens)
        >>> score_matrix(cache, prompts, layer=2, head=4)
        View('scores of L2H4'): shown in a notebook; .save(path) writes a page
    """
    if len({prompt.demonstrations for prompt in prompts}) > 1:
        raise ValueError(
            "prompts must have the same demonstrations: make them from one prompt with tna.incontext.with_query"
        )
    scores = label_scores(cache, prompts).cpu()
    required_head(Stream(cache).model, (layer, head))
    scores = scores if cache.has_batch_dim else scores[None]
    labels = prompts[0].labels
    rows = [_named(text, labels[label]) for text, label in prompts[0].demonstrations]
    columns = [_named(prompt.query, labels[prompt.gold]) for prompt in prompts]
    drawn = matrix(scores[:, layer, head].T.tolist(), rows, columns, unit="score", x="query", y="demonstration")
    return View(drawn, f"scores of {head_name(layer, head)}")


@typechecked
def tower_split(towers: TwoTowers, *, prompt: int = 0) -> View:
    """Draw the split of one prompt's scores: what each component gives on the query side and on the key side.

    Raises:
        IndexError: If the prompt is out of range.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompt = tna.incontext.from_demo(model, tna.demo.in_context(1, 4))[0]
        >>> _, cache = model.run_with_cache(tna.incontext.batch_of(model, [prompt]).tokens)
        >>> tower_split(tna.incontext.two_towers(cache, prompt, layer=2, head=4))
        View('towers of L2H4'): shown in a notebook; .save(path) writes a page
    """
    within("prompt", prompt, len(towers.demonstrations))
    sides = {"query": towers.by_query, "key": towers.by_key}
    shown = towers.demonstrations[prompt]
    rows = [_named(text, word) for text, word in shown]
    drawn: dict[str, Markup] = {}
    for side, split in sides.items():
        own = split if split.ndim == 2 else split[prompt]
        values = torch.cat([own, own.sum(-1, keepdim=True)], dim=-1).cpu().tolist()
        columns = [*towers.components, "sum"]
        drawn[side] = matrix(values, rows, columns, unit="score", x=f"wrote the {side}")
    return View(render("split.html.j2", drawn=drawn), f"towers of {head_name(towers.layer, towers.head)}")


@typechecked
def learned_metric(found: LearnedMetric) -> View:
    """Draw how well each head's score tells the query's class, beside cosine before its towers.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompts = tna.incontext.from_demo(model, tna.demo.in_context(8, 4, counts=(2, 2)))
        >>> learned_metric(tna.incontext.learned_metric(model, prompts, heads=[(2, 4)]))
        View('learned metric'): shown in a notebook; .save(path) writes a page
    """
    frame = found.summary()
    names = [f"L{row['layer']:.0f}H{row['head']:.0f}" for row in frame.to_dict("records")]
    columns = {"score": "auc", "cosine before": "cosine_auc", "centred cosine": "centred_auc"}
    series: dict[str, Any] = {name: frame[column].tolist() for name, column in columns.items()}
    return View(grouped_bars(names, series, y="AUC inside prompts", level=0.5), "learned metric")


def _mean_at(values: Float[Tensor, "prompt head label"], chosen: Tensor) -> list[float]:
    """Return, for each head, the mean over the entries that ``chosen`` marks."""
    return values.transpose(1, 2)[chosen].mean(0).tolist()


def _named(text: str, label: str) -> str:
    """Return a text, shortened if it is long, with its label."""
    shown = visible(text)
    return f"{shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + '…'} : {visible(label)}"


def _sign(label: int, pair: tuple[int, int]) -> int:
    return (label == pair[0]) - (label == pair[1])
