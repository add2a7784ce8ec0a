"""The page of in-context classification: which heads carry it, and its two biases (paper 2)."""

import pandas as pd
from markupsafe import Markup

from tl_neuron_attr.checked import checked
from tl_neuron_attr.incontext import BiasReport, InContextHeads
from tl_neuron_attr.table import Table
from tl_neuron_attr.vis.biases import biases as bias_bars
from tl_neuron_attr.vis.charts import head_heatmap
from tl_neuron_attr.vis.templates import render
from tl_neuron_attr.vis.view import View


@checked
def in_context(heads: InContextHeads, biases: BiasReport | None = None, *, name: str = "") -> View:
    """One page on in-context classification in a model.

    Args:
        heads: From :func:`~tl_neuron_attr.incontext.in_context_heads`.
        biases: From :func:`~tl_neuron_attr.incontext.bias_report`, if it was made.
        name: What to call the model.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompts = tna.incontext.from_demo(model, tna.demo.in_context(40, 4, query="strong"))
        >>> in_context(tna.incontext.in_context_heads(model, prompts, n=4, layers=[3], random_sets=2, progress=False))
        View('In-context classification'): shown in a notebook; .save(path) writes a page
    """
    body = render(
        "in_context.html.j2",
        name=name,
        found=heads,
        base=heads.zeroed.iloc[0].to_dict(),
        table=Markup(heads.table().html()),
        zeroed=Markup(_zeroed(heads.zeroed).html()),
        scores={
            "static score: what the head adds to log p of the label": head_heatmap(heads.scores("static")),
            "attention from the last position to labels": head_heatmap(heads.scores("attention"), unit="attention"),
        },
        biases=None if biases is None else bias_bars(biases).body,
    )
    return View(body, "In-context classification", whole=True)


def _zeroed(frame: pd.DataFrame) -> Table:
    """What zeroing sets of heads costs."""
    by_label = [str(column) for column in frame.columns if str(column).startswith("accuracy_")]
    rows = [
        (
            row["zeroed"],
            row["heads"],
            f"{row['accuracy']:.3f} [{row['low']:.3f}, {row['high']:.3f}]",
            *(float(row[column]) for column in by_label),
        )
        for row in frame.to_dict("records")
    ]
    headings = ("zeroed", "heads", "accuracy", *(f"{column.removeprefix('accuracy_')} right" for column in by_label))
    return Table(headings, rows, "accuracy with heads zeroed, on prompts the heads were not chosen on")
