"""Views of changed models: a bias before and after an edit, and the coefficients that fine-tuning amplified."""

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.cna import BiasReport, CoefficientIncrease
from tl_neuron_attr.vis.charts import MLP, labels_of, to_svg
from tl_neuron_attr.vis.plots import grouped_bars
from tl_neuron_attr.vis.templates import render
from tl_neuron_attr.vis.view import View

BEFORE = "#b9c4d6"
"""A paler blue than :data:`~tl_neuron_attr.vis.charts.MLP`, the colour of what is measured after the edit."""


@typechecked
def bias(report: BiasReport, *, by: str = "pair") -> View:
    """Draw the bias by pair of prompts (or ``by="target"``, ``"towards"``) before and after the edit, and what broke.

    Raises:
        ValueError: If ``by`` is none of these.

    Examples:
        >>> from tl_neuron_attr import cna, demo
        >>> model, pairs = demo.load(), [("the nurse said that", "the doctor said that")]
        >>> found = cna.bias_neurons(model, pairs, ["she", "he"], 3)
        >>> bias(cna.bias_report(model, found, pairs, ["she", "he"]))
        View('bias before and after'): shown in a notebook; .save(path) writes a page
    """
    means = report.by(by)
    names = [str(name) for name in means[by]]
    drawn = before_after(names, means["before"].tolist(), means["after"].tolist(), x="log p difference (nats)")
    table = Markup(report.table().html())
    return View(render("editing.html.j2", table=table, drawn=drawn, failures=report.failures), "bias before and after")


@typechecked
def coefficients(found: CoefficientIncrease) -> View:
    """Draw how much larger the coefficients of amplified neurons are, one group of bars per fine-tuned model.

    Examples:
        >>> from tl_neuron_attr import cna, demo
        >>> model = demo.load()
        >>> cases = cna.arithmetic_cases(model, [cna.Problem(3, "+", 5)])
        >>> coefficients(cna.coefficient_increase(model, {"itself": model}, cases, progress=False))
        View('coefficient increase'): shown in a notebook; .save(path) writes a page
    """
    wide = found.wide()
    series = {f"top {k}": [100 * x for x in wide[k]] for k in wide.columns}
    drawn = grouped_bars([str(name) for name in wide.index], series, y="coefficient increase (%)")
    body = render("editing.html.j2", table=Markup(found.table().html()), drawn=drawn, failures=())
    return View(body, "coefficient increase")


def before_after(
    names: Sequence[str], before: Sequence[float | int], after: Sequence[float | int], *, x: str
) -> Markup:
    """Draw two bars per name: above it before the edit, below it after; the first name is on top."""
    figure = Figure(figsize=(7.2, 0.42 * len(names) + 1.1), layout="constrained")
    axes = figure.add_subplot()
    titles: dict[str, str] = {}
    for label, values, colour, hatch, shift in (
        ("before", before, BEFORE, "////", -0.19),
        ("after", after, MLP, "", 0.19),
    ):
        places = [i + shift for i in range(len(names))]
        bars = axes.barh(places, list(values), 0.36, color=colour, hatch=hatch, edgecolor="white", linewidth=0.3)
        bars.set_label(label)
        for i, bar in enumerate(bars):
            bar.set_gid(f"{label}{i}")
            titles[f"{label}{i}"] = f"{names[i]}, {label}: {values[i]:.3f}"
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set_yticks(range(len(names)), labels_of(names))
    axes.invert_yaxis()
    axes.set_xlabel(x)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return to_svg(figure, titles)
