"""The two biases of in-context classification before and after their corrections, as bars (paper 2, Tables 7 and 8)."""

from typing import Any

import pandas as pd
from markupsafe import Markup

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.incontext.bias_measures import ALL_PROMPTS, WHEN
from tl_neuron_attr.incontext.icl_biases import IclBiases
from tl_neuron_attr.results.intervals import shown_interval
from tl_neuron_attr.vis.plots import grouped_bars
from tl_neuron_attr.vis.templates import render
from tl_neuron_attr.vis.view import View

_COLOURS = {"before": "#98a5b8", "after": "#20457c"}
_SIZES = {
    ("majority", "fluctuation"): "one removed:\nchange of\naccuracy",
    ("majority", "gap"): "one removed:\ngap between\nthe labels",
    ("recency", "deviation"): "orders:\ndeviation of\naccuracy",
    ("recency", "attention deviation"): "orders:\ndeviation of\nattention",
}


@typechecked
def biases(report: IclBiases) -> View:
    """Draw before and after: how large each bias is, what removing a demonstration does, and each order's accuracy.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompts = tna.incontext.from_demo(model, tna.demo.in_context(40, 4, counts=(2, 2)))
        >>> biases(tna.incontext.icl_biases(model, prompts, [(3, 4), (3, 7)], progress=False))
        View('In-context biases'): shown in a notebook; .save(path) writes a page
    """
    charts: dict[str, Any] = {}
    if report.does_task:
        charts = {"sizes": _sizes(report), "changes": _changes(report), "orders": _orders(report)}
    body = render(
        "biases.html.j2",
        report=report,
        reached=shown_interval(*report.accuracy),
        table=Markup(report.table().html()),
        **charts,
    )
    return View(body, "In-context biases")


def _sizes(report: IclBiases) -> Markup:
    """Draw each bias's measures, as the mean of the labels' own figures."""
    rows = [report.value(bias, measure) for bias, measure in _SIZES]
    values = {when: [row[when] for row in rows] for when in WHEN}
    ends = {when: [(row[f"{when}_low"], row[f"{when}_high"]) for row in rows] for when in WHEN}
    return grouped_bars(list(_SIZES.values()), values, y="size of the bias", colours=_COLOURS, intervals=ends)


def _changes(report: IclBiases) -> Markup:
    """Draw what removing a demonstration of each label does, for each right label."""
    frame = report.changes[report.changes["gold"] != ALL_PROMPTS]
    groups = [f"{gold} is right,\none {removed} less" for gold, removed in _keys(frame, "gold", "removed")]
    of = {when: frame[frame["when"] == when] for when in WHEN}
    values = {when: rows["value"].tolist() for when, rows in of.items()}
    ends = {when: list(zip(rows["low"].tolist(), rows["high"].tolist(), strict=True)) for when, rows in of.items()}
    return grouped_bars(groups, values, y="change of accuracy", colours=_COLOURS, intervals=ends)


def _orders(report: IclBiases) -> dict[str, Markup]:
    """Draw, for each right label, how far each order's accuracy is from the mean of the orders."""
    charts: dict[str, Markup] = {}
    for label in report.labels:
        frame = report.orders[report.orders["gold"] == label]
        of = {when: frame.loc[frame["when"] == when, "value"] for when in WHEN}
        values = {when: (accuracies - accuracies.mean()).tolist() for when, accuracies in of.items()}
        orders = [_broken(order) for order, _ in _keys(frame, "order", "gold")]
        charts[label] = grouped_bars(orders, values, y="accuracy less its mean", colours=_COLOURS)
    return charts


def _keys(frame: pd.DataFrame, *columns: str) -> list[tuple[str, ...]]:
    """Return the different rows of some columns, in the order in which they first appear."""
    return list(dict.fromkeys(zip(*(frame[column].tolist() for column in columns), strict=True)))


def _broken(order: str) -> str:
    """Return an order of labels with two labels per line."""
    words = order.split(" ")
    return "\n".join(" ".join(words[i : i + 2]) for i in range(0, len(words), 2))
