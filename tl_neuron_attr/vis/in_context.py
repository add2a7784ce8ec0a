"""The page of in-context heads: which they are, what they copy, what their towers compare, two biases (paper 2)."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.incontext import AttentionShift, IclBiases, InContextHeads, LearnedMetric
from tl_neuron_attr.results.table import Table
from tl_neuron_attr.vis.biases import biases as bias_bars
from tl_neuron_attr.vis.charts import head_heatmap
from tl_neuron_attr.vis.plots import grouped_bars, lines
from tl_neuron_attr.vis.templates import render
from tl_neuron_attr.vis.towers import learned_metric as metric_bars
from tl_neuron_attr.vis.view import View


@dataclass(frozen=True)
class Section:
    """One section of the page."""

    title: str
    text: str
    panels: tuple[tuple[str, Markup], ...]
    """Captions, and the markup that each stands above."""


@typechecked
def in_context(
    *,
    heads: InContextHeads | None = None,
    sources: View | None = None,
    differences: View | None = None,
    shift: AttentionShift | None = None,
    metric: LearnedMetric | None = None,
    scores: View | None = None,
    split: View | None = None,
    biases: IclBiases | None = None,
    name: str = "",
) -> View:
    """Make one page on in-context classification, with a section for each result given.

    Args:
        heads: From :func:`~tl_neuron_attr.incontext.in_context_heads`.
        sources: From :func:`label_sources`.
        differences: From :func:`label_differences`.
        shift: From :func:`~tl_neuron_attr.incontext.attention_shift`.
        metric: From :func:`~tl_neuron_attr.incontext.learned_metric`.
        scores: From :func:`score_matrix`.
        split: From :func:`tower_split`.
        biases: From :func:`~tl_neuron_attr.incontext.icl_biases`.
        name: What to call the model.

    Raises:
        ValueError: If there is nothing to show.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompts = tna.incontext.from_demo(model, tna.demo.in_context(8, 4, counts=(2, 2)))
        >>> in_context(shift=tna.incontext.attention_shift(model, prompts, [(2, 4)]))
        View('In-context heads'): shown in a notebook; .save(path) writes a page
    """
    sections = [
        *([] if heads is None else _heads(heads)),
        *_drawn(sources, "Where they look", "Attention from the last position to the labels of one prompt."),
        *_drawn(
            differences,
            "What they copy",
            "What each head writes for the first label against the second, at the labels: above zero it favours "
            "the first (Table 4).",
        ),
        *([] if shift is None else [_shift(shift)]),
        *([] if metric is None else [_metric(metric)]),
        *_drawn(scores, "Scores of demonstrations and queries", _titled(scores)),
        *_drawn(split, "What the towers compare", f"{_titled(split)}: each row adds up to a label's score."),
    ]
    if not sections and biases is None:
        raise ValueError("there is nothing to show: give at least one result or view")
    scripted = any(view.scripted for view in (sources, differences, scores, split) if view is not None)
    body = render("in_context.html.j2", name=name, sections=sections, biases=biases and bias_bars(biases).body)
    return View(body, "In-context heads", scripted=scripted, whole=True)


def _titled(view: View | None) -> str:
    return "" if view is None else f"{view.title[:1].upper()}{view.title[1:]}"


def _drawn(view: View | None, title: str, text: str) -> list[Section]:
    return [] if view is None else [Section(title, text, (("", view.body),))]


def _heads(found: InContextHeads) -> list[Section]:
    """Show which heads were found and what zeroing costs, or that the model does not do the task."""
    table = ("", Markup(found.table().html()))
    text = "By what they write (static score) and by what is lost without them (causal score), each head alone."
    if not found.does_task:
        return [Section("Which heads", "The model does not do this task: no heads were looked for.", (table,))]
    raised = ("log-probability of the label, raised by each head", head_heatmap(found.scores("static")))
    together = [
        ("accuracy after zeroing, by right label (Table 3)", _zeroed(found)),
        ("the same over the vocabulary, among the labels only, and as log-odds of the right label", _ways(found)),
    ]
    if not found.search.empty:
        together.append(("sets found by greedy search, and random sets of the same size", _search(found.search)))
    return [
        Section("Which heads", text, (table, raised)),
        Section("What zeroing costs", "Measured on prompts that the heads were not chosen on.", tuple(together)),
    ]


def _zeroed(found: InContextHeads) -> Markup:
    rows = found.zeroed
    columns = {"all": "accuracy"} | {f"{word} is right": f"accuracy_{word}" for word in found.labels}
    series: dict[str, Any] = {name: rows[column].tolist() for name, column in columns.items()}
    names = [f"{zeroed.split(',')[0]} ({n})" for zeroed, n in zip(rows["zeroed"], rows["heads"], strict=True)]
    return grouped_bars(names, series, y="accuracy", level=found.chance)


def _ways(found: InContextHeads) -> Markup:
    columns = ("zeroed", "heads", "in_vocabulary", "among_labels", "log_odds")
    rows = found.zeroed[list(columns)].to_numpy().tolist()
    return Markup(Table(("zeroed", "heads", "over the vocabulary", "among labels", "log-odds, nats"), rows).html())


def _search(search: pd.DataFrame) -> Markup:
    sizes = search["size"].tolist()
    columns = {"searched": "accuracy", "random, mean": "random", "random, least": "random_low"}
    series = {name: (sizes, search[column].tolist()) for name, column in columns.items()}
    return lines(series, x="heads zeroed", y="accuracy")


def _shift(shift: AttentionShift) -> Section:
    summary = shift.summary()
    drawn: list[tuple[str, Markup]] = []
    for label, group in summary.groupby("label", sort=False):
        names = [f"L{row['layer']}H{row['head']}" for row in group.to_dict("records")]
        series: dict[str, Any] = {
            "as it is": group["attention_before"].tolist(),
            "labels reversed": group["attention_after"].tolist(),
        }
        drawn.append((f"attention to {label}", grouped_bars(names, series, y="attention")))
    text = "The same texts with the labels exchanged: attention moves, what is copied does not (Tables 5 and 6)."
    return Section("When labels are reversed", text, (*drawn, ("", Markup(shift.table().html()))))


def _metric(metric: LearnedMetric) -> Section:
    text = (
        "How often a demonstration of the query's class scores above one of another class, and the same by cosine of "
        "what the towers read; the dotted line is chance."
    )
    return Section(
        "Do the towers measure similarity", text, (("", metric_bars(metric).body), ("", Markup(metric.table().html())))
    )
