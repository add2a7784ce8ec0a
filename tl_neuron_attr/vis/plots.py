"""Charts of studies: matrices, lines, grouped bars, by the rules of :mod:`tl_neuron_attr.vis.charts`."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from tl_neuron_attr.vis.charts import DIVERGING, labels_of, to_svg

COLOURS = ("#20457c", "#e69f00", "#56b4e9", "#b2402f", "#009e73", "#7f7f7f", "#cc79a7", "#333333")
"""Told apart by colour-blind people (after Okabe and Ito), and by lightness."""

_DASHES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "x", "P", "*")


def matrix(
    values: Sequence[Sequence[float | int]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    unit: str,
    x: str = "",
    y: str = "",
    numbers: bool = True,
) -> Markup:
    """Draw a matrix in colours, blue above zero and red below, each cell with its number if there is room."""
    grid = np.asarray(values, dtype=float)
    row_labels, column_labels = labels_of(rows), labels_of(columns)
    longest_row, longest_column = (max(map(len, names)) for names in (row_labels, column_labels))
    width = 0.5 * len(columns) + max(2.2, 0.08 * longest_row + 0.9)
    height = 0.34 * len(rows) + max(1.2, 0.06 * longest_column + 0.8)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    largest = max(float(np.nanmax(np.abs(grid))), 1e-12)
    colours = matplotlib.colormaps[DIVERGING]
    titles: dict[str, str] = {}
    for (i, j), value in np.ndenumerate(grid):
        share = value / largest
        name = f"cell{i}x{j}"
        cell = Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=colours(0.5 + share / 2), edgecolor="white", gid=name)
        titles[name] = f"{rows[i]}, {columns[j]}: {value:+.3g} {unit}"
        axes.add_patch(cell)
        if numbers:
            ink = "white" if abs(share) > 0.6 else "black"
            axes.text(j, i, f"{value:.3g}", ha="center", va="center", fontsize=7.5, color=ink)
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5), xlabel=x, ylabel=y)
    axes.set_xticks(range(len(columns)), column_labels)
    if longest_column > 4:
        for label in axes.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), row_labels)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(unit, fontsize=8.5, loc="right", color="#667085")
    return to_svg(figure, titles)


def lines(
    series: Mapping[str, tuple[Sequence[float | int], Sequence[float | int]]], *, x: str, y: str, log_x: bool = False
) -> Markup:
    """Draw one line per name, each with its own colour, dash and marker."""
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, (places, values)) in enumerate(series.items()):
        colour, dash = COLOURS[i % len(COLOURS)], _DASHES[i % len(_DASHES)]
        marker = _MARKERS[i % len(_MARKERS)] if len(places) <= 12 else ""
        (line,) = axes.plot(list(places), list(values), label=labels_of([name])[0], color=colour, linestyle=dash)
        line.set(marker=marker, markersize=4, linewidth=1.4)
    if log_x:
        axes.set_xscale("log")
        ticks = sorted({place for places, _ in series.values() for place in places})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    elif all(float(place).is_integer() for places, _ in series.values() for place in places):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel=x, ylabel=y)
    return _with_legend(figure, axes)


def grouped_bars(
    groups: Sequence[str],
    series: Mapping[str, Sequence[float | int]],
    *,
    y: str,
    colours: Mapping[str, str] | None = None,
    level: float | None = None,
    intervals: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> Markup:
    """Draw bars side by side, one group per name and one bar per series; ``colours`` where a series has a meaning.

    A dotted line is drawn at ``level``, chance for instance; ``intervals`` are whiskers: a low and a high end for every
    bar of a series.
    """
    labels = labels_of(groups)
    each = max(0.9, 0.085 * max(len(line) for label in labels for line in label.split("\n")))
    figure = Figure(figsize=(max(5.5, each * len(groups) + 2.5), 2.9), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(series)
    titles: dict[str, str] = {}
    for i, (name, values) in enumerate(series.items()):
        places = [g + (i - (len(series) - 1) / 2) * width for g in range(len(groups))]
        hatch, colour = ("", "////", "....", "xxxx")[i % 4], (colours or {}).get(name, COLOURS[i % len(COLOURS)])
        bars = axes.bar(places, list(values), width, label=labels_of([name])[0], color=colour, hatch=hatch)
        for j, (bar, group, value) in enumerate(zip(bars, groups, values, strict=True)):
            bar.set(gid=f"bar{i}x{j}", edgecolor="white", linewidth=0.3)
            titles[f"bar{i}x{j}"] = f"{group}, {name}: {value:.3g}".replace("\n", " ")
        for place, (low, high) in zip(places, (intervals or {}).get(name, ()), strict=False):
            axes.plot([place, place], [low, high], color="black", linewidth=0.9, solid_capstyle="butt")
    axes.axhline(0, color="black", linewidth=0.6)
    if level is not None:
        axes.axhline(level, color="black", linewidth=1, linestyle=":")
    axes.set_xticks(range(len(groups)), labels)
    axes.set_ylabel(y)
    return _with_legend(figure, axes, titles)


def _with_legend(figure: Figure, axes: Axes, titles: Mapping[str, str] | None = None) -> Markup:
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return to_svg(figure, titles or {})
