"""The pages of studies: where knowledge lives (paper 1, sections 4.2 to 4.4), and which score is faithful (4.1)."""

from collections.abc import Mapping

import pandas as pd
from markupsafe import Markup

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.evaluate import Faithfulness, KnowledgeStudy
from tl_neuron_attr.evaluate.results import best_by_type
from tl_neuron_attr.evaluate.select import KEPT
from tl_neuron_attr.results.table import Table
from tl_neuron_attr.vis.charts import ATTN, MLP
from tl_neuron_attr.vis.plots import grouped_bars, lines, matrix
from tl_neuron_attr.vis.templates import render
from tl_neuron_attr.vis.view import View

_BEST = 10
"""Heads and layers listed of each type, as in the paper's Tables 4 and 10."""
_YIELD = "prompts asked, kept by the selection rule, and of these with an answer of several tokens"
_SUMS = "sums of neuron scores, in nats"
_LISTED = 40
"""The most left-out prompts that are listed; all are counted."""


@typechecked
def faithfulness(found: Faithfulness) -> View:
    """Show paper 1, Table 2, and how log p falls with the number of neurons zeroed, if that was measured.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> facts = tna.demo.facts("capital")[:2]
        >>> found = tna.evaluate.faithfulness(tna.demo.load(), [f.text for f in facts], [f.answer for f in facts],
        ...     scores=["log_prob_increase", "random"], curve=(1,), progress=False)
        >>> faithfulness(found)
        View('faithfulness'): shown in a notebook; .save(path) writes a page
    """
    curve = found.curve()
    order = found.summary()["score"].tolist()
    methods = [name for name in order if name in set(curve.loc[curve["k"] > 0, "score"])]
    series = {
        name: (group["k"].tolist(), group["log_prob"].tolist())
        for name, group in ((name, curve[curve["score"] == name].sort_values("k")) for name in methods)
    }
    drawn = Markup()
    if any(len(places) > 1 for places, _ in series.values()):
        measured = "mean log p less the contrast's (nats)" if found.contrasted else "mean log p (nats)"
        drawn = lines(series, x="MLP neurons zeroed", y=measured, log_x=True)
    return View(render("faithfulness.html.j2", table=Markup(found.table().html()), curve=drawn), "faithfulness")


@typechecked
def study(found: KnowledgeStudy, *, name: str = "") -> View:
    """Make one page on where each type of knowledge lives.

    Args:
        found: From :func:`~tl_neuron_attr.evaluate.knowledge_study`.
        name: What to call the model.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> facts = tna.evaluate.facts(["capital"], per_type=2)
        >>> found = tna.evaluate.knowledge_study(tna.demo.load(), facts, progress=False)
        >>> study(found)
        View('Where knowledge lives'): shown in a notebook; .save(path) writes a page
    """
    left_out = found.selection[found.selection["status"] != KEPT]
    body = render(
        "study.html.j2",
        name=name,
        kept=_html(found.kept(), _YIELD),
        reasons=[],
        left_out=left_out.head(_LISTED).to_dict("records"),
        n_left_out=len(left_out),
        sums=_grouped(found.layer_sums(), "type", "site", "score", y="sum of layer scores (nats)"),
        layers={site: _layers(found.layers, site) for site in ("attn", "mlp")},
        heads=_html(_named_heads(found.top_heads()), "the best heads, mean score in nats"),
        best_layers=_html(_named_layers(found.top_layers()), "the best value layers"),
        neuron_sums=_html(found.neuron_sums(), _SUMS),
        decreases=_decreases(found.decreases()),
        cross=_cross(found.cross_decreases()),
        specific=_html(
            found.specific_drops(), "what zeroing MLP neurons takes from the own answer and from others, nats"
        ),
        depth=_depth(found.depth()),
        shared=_html(
            _wide(found.shared(), "type", "kind", "neurons").fillna(0).astype(int).reset_index(),
            "neurons among the best of more than half of a type's prompts",
        ),
        segments=_segments(found),
    )
    return View(body, "Where knowledge lives", whole=True)


@typechecked
def merged_study(tables: Mapping[str, pd.DataFrame], *, name: str = "") -> View:
    """Make one page of a study that was run in shards: as :func:`study`, of its tables.

    Args:
        tables: From :func:`~tl_neuron_attr.sweep.merge_study`.
        name: What to call the model.
    """
    left_out = tables["statuses"][tables["statuses"]["status"] != KEPT]
    shared = tables["shared"].groupby(["type", "kind"], sort=False).size().rename("neurons").reset_index()
    body = render(
        "study.html.j2",
        name=name,
        kept=_html(tables["kept"], _YIELD),
        reasons=left_out.to_dict("records"),
        left_out=[],
        neuron_sums=_neuron_sums(tables["neuron_sums"]) if "neuron_sums" in tables else "",
        specific="",
        segments="",
        n_left_out=int(left_out["prompts"].sum()),
        sums=_grouped(tables["layer_sums"], "type", "site", "score", y="sum of layer scores (nats)"),
        layers={site: _layers(tables["layers"], site) for site in ("attn", "mlp")},
        heads=_html(_named_heads(best_by_type(tables["heads"], _BEST)), "the best heads, mean score in nats"),
        best_layers=_html(_named_layers(best_by_type(tables["layers"], _BEST)), "the best value layers"),
        decreases=_decreases(tables["decreases"]),
        cross=_cross(tables["cross_decreases"]),
        depth=_depth(tables["depth"]),
        shared=_html(
            _wide(shared, "type", "kind", "neurons").fillna(0).astype(int).reset_index(),
            "neurons among the best of more than half of a type's prompts",
        ),
    )
    return View(body, "Where knowledge lives", whole=True)


def _neuron_sums(merged: pd.DataFrame) -> Markup:
    wide = merged.pivot_table(index=["site", "neurons"], columns="type", values="score", sort=False)
    return _html(wide.reset_index(), _SUMS)


def _html(frame: pd.DataFrame, caption: str) -> Markup:
    return Markup(Table(list(frame.columns), frame.to_numpy().tolist(), caption).html())


def _wide(frame: pd.DataFrame, index: str, columns: str, values: str) -> pd.DataFrame:
    """Return a table with rows and columns in the order in which they first appear."""
    wide = frame.pivot(index=index, columns=columns, values=values)
    return wide.reindex(index=frame[index].drop_duplicates(), columns=frame[columns].drop_duplicates())


def _grouped(frame: pd.DataFrame, group: str, series: str, value: str, *, y: str) -> Markup:
    wide = _wide(frame, group, series, value)
    values = {str(c): wide[c].tolist() for c in wide.columns}
    return grouped_bars([str(i) for i in wide.index], values, y=y, colours={"attn": ATTN, "mlp": MLP})


def _layers(layers: pd.DataFrame, site: str) -> Markup:
    wide = layers[layers["site"] == site].groupby(["type", "layer"], sort=False)["score"].mean().unstack("layer")
    numbers = len(wide.columns) <= 16
    return matrix(
        wide.to_numpy().tolist(),
        [str(i) for i in wide.index],
        [str(c) for c in wide.columns],
        unit="nats",
        x="layer",
        numbers=numbers,
    )


def _decreases(decreases: pd.DataFrame) -> Markup:
    return _grouped(decreases, "type", "zeroed", "prob", y="probability lost (%)")


def _cross(decreases: pd.DataFrame) -> Markup:
    wide = decreases.pivot(index="zeroed", columns="type", values="prob")
    order = decreases["type"].drop_duplicates().tolist()
    wide = wide.reindex(index=order, columns=order)
    return matrix(
        wide.to_numpy().tolist(), order, order, unit="% of probability lost", x="knowledge asked", y="heads zeroed"
    )


def _depth(frame: pd.DataFrame) -> Markup:
    layers = [str(layer) for layer in frame["layer"]]
    series = {name: frame[name].tolist() for name in ("queryvalue", "queryonly")}
    return grouped_bars(layers, series, y="neurons per prompt, by layer")


def _segments(found: KnowledgeStudy) -> Markup:
    means = found.segments.groupby(["type", "point"], sort=False)["log_prob"].mean().reset_index()
    series = {
        str(name): (group["point"].tolist(), group["log_prob"].tolist())
        for name, group in means.groupby("type", sort=False)
    }
    return lines(series, x="steps of 60 from the embedding to the final stream", y="mean log p (nats)")


def _named_heads(best: pd.DataFrame) -> pd.DataFrame:
    names = [f"L{r['layer']}H{r['head']} {r['score']:+.3f}" for r in best.to_dict("records")]
    return _by_place(best.assign(name=names))


def _named_layers(best: pd.DataFrame) -> pd.DataFrame:
    names = [f"{r['site']} {r['layer']} {r['score']:+.3f}" for r in best.to_dict("records")]
    return _by_place(best.assign(name=names))


def _by_place(best: pd.DataFrame) -> pd.DataFrame:
    return _wide(best, "place", "type", "name").fillna("").reset_index()
