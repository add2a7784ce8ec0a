"""Static charts as SVG: matplotlib draws, the text stays text, and every mark says its value when pointed at.

They print, need no script, and are readable without colour: sites differ in lightness and hatching, and negative cells
carry a minus sign.
"""

import io
import re
from collections.abc import Iterable, Mapping
from typing import Any
from xml.etree import ElementTree

import matplotlib
from jaxtyping import Float
from markupsafe import Markup
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from torch import Tensor

from tl_neuron_attr.model.components import head_name
from tl_neuron_attr.results.token_text import visible

ATTN, MLP = "#e69f00", "#20457c"
"""Orange and dark blue: told apart by colour-blind people, and in grey by lightness."""

DIVERGING = "RdBu"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tl_neuron_attr",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,
}
_INK = "#1d2330"
"""Of signs on a cell: given, so that a dark page, which turns all other text light, leaves them dark."""

_MOST_TICKS = 24
"""Labels of two digits that stand apart on an axis of the narrowest chart."""

_LONGEST_LABEL = 60
"""Characters of a name on an axis: a longer one would leave no room for what is drawn."""

_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
"""Coordinates are in points: a hundredth of one is below what is seen, and further digits make pages longer."""

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML has none of."""

_SVG = "http://www.w3.org/2000/svg"
_FAINT = 0.04
"""Cells below this share of the largest get no minus sign: they look white, and signs on them would be noise."""


def layer_chart(attn: Float[Tensor, "layer"], mlp: Float[Tensor, "layer"], *, unit: str = "nats") -> Markup:
    """Draw two bars per layer: what attention and what the MLP added."""
    figure = Figure(figsize=(min(max(6.5, 0.25 * len(attn) + 1.5), 11), 2.6), layout="constrained")
    axes = figure.add_subplot()
    titles: dict[str, str] = {}
    for site, values, colour, hatch, shift in (("attn", attn, ATTN, "////", -0.2), ("mlp", mlp, MLP, "", 0.2)):
        places = [layer + shift for layer in range(len(values))]
        bars = axes.bar(places, values.tolist(), 0.4, color=colour, hatch=hatch, edgecolor="white", linewidth=0.3)
        bars.set_label({"attn": "attention", "mlp": "MLP"}[site])
        for layer, bar in enumerate(bars):
            bar.set_gid(f"{site}{layer}")
            titles[f"{site}{layer}"] = f"layer {layer}, {site}: {float(values[layer]):+.4f} {unit}"
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_xlabel("layer")
    axes.set_ylabel(f"increase of log p ({unit})")
    axes.set_xlim(-0.6, len(attn) - 0.4)
    axes.set_xticks(index_ticks(len(attn)))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    return to_svg(figure, titles)


def head_heatmap(scores: Float[Tensor, "layer head"], *, unit: str = "nats") -> Markup:
    """Draw one cell per head, layers upwards; blue raises the target, red lowers it and carries a minus sign."""
    n_layers, n_heads = scores.shape
    figure = Figure(figsize=(0.24 * n_heads + 2.2, 0.24 * n_layers + 1.1), layout="constrained")
    axes = figure.add_subplot()
    largest = float(scores.abs().max().clamp_min(1e-12))
    colours = matplotlib.colormaps[DIVERGING]
    norm = TwoSlopeNorm(0, -largest, largest)
    titles: dict[str, str] = {}
    for layer, line in enumerate(scores.tolist()):
        for head, score in enumerate(line):
            cell = Rectangle((head - 0.5, layer - 0.5), 1, 1, facecolor=colours(norm(score)), edgecolor="white")
            name = head_name(layer, head)
            cell.set(linewidth=0.5, gid=name)
            titles[name] = f"{name}: {score:+.4f} {unit}"
            axes.add_patch(cell)
            if score < -_FAINT * largest:
                axes.text(head, layer, "\u2212", ha="center", va="center", fontsize=8, color=_INK, clip_on=True)
    axes.set(xlim=(-0.5, n_heads - 0.5), ylim=(-0.5, n_layers - 0.5), xlabel="head", ylabel="layer", aspect="equal")
    axes.set_xticks(index_ticks(n_heads))
    axes.set_yticks(index_ticks(n_layers))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(ScalarMappable(norm, DIVERGING), ax=axes, shrink=0.9, aspect=30)
    bar.set_label(unit)
    bar.outline.set_visible(False)
    return to_svg(figure, titles)


def labels_of(names: Iterable[str]) -> list[str]:
    """Return names as a chart writes them: cut, each line by itself, spaces and a leading underscore not lost.

    Examples:
        >>> labels_of(["sport", " sport", "_sport"])
        ['sport', '␣sport', ' _sport']
    """
    lines = [[visible(line[:_LONGEST_LABEL]) or "\u2423" for line in name.split("\n")] for name in names]
    joined = ["\n".join(each) for each in lines]
    return [f" {name}" if name.startswith("_") else name for name in joined]  # matplotlib leaves such a label out


def index_ticks(n: int) -> list[int]:
    """Return the ticks of an axis of ``n`` layers or heads: each of them, or as few as have room, and none beyond.

    Examples:
        >>> index_ticks(18)[-2:], index_ticks(48)[-2:]
        ([16, 17], [44, 46])
    """
    step = next(size * 10**power for power in range(6) for size in (1, 2, 5) if n <= _MOST_TICKS * size * 10**power)
    return list(range(0, n, step))


def to_svg(figure: Figure, titles: Mapping[str, str]) -> Markup:
    """Return the figure as an ``<svg>`` element; a mark whose id is in ``titles`` shows that text when pointed at.

    Text is text: no dollar sign begins a formula, and characters that XML has none of are shown as replaced.
    """
    drawn = io.BytesIO()
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with matplotlib.rc_context(_STYLE):
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(_NOT_XML.sub("\ufffd", drawn.getvalue().decode("utf-8", "replace")))
    for mark in root.iter(f"{{{_SVG}}}g"):
        if (title := titles.get(mark.attrib.get("id", ""))) is not None:
            ElementTree.SubElement(mark, f"{{{_SVG}}}title").text = title
            mark.attrib["data-unit"] = mark.attrib.pop("id")
    for path in root.iter(f"{{{_SVG}}}path"):
        path.attrib["d"] = _LONG_NUMBER.sub(lambda number: f"{float(number[0]):.2f}", path.attrib.get("d", ""))
    root.attrib["class"] = "tna-chart"
    return Markup(ElementTree.tostring(root, encoding="unicode"))
