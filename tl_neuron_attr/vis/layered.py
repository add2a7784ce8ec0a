"""Graphs in columns, from left to right: laid out here and drawn as SVG, so that they print and need no script.

The script adds the threshold and shows, for the node pointed at, the paths that lead to it and from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
from markupsafe import Markup

from tl_neuron_attr.vis.templates import asset, render

_WIDTH, _ROW, _WIDEST_BOX, _BETWEEN, _TOP = 1000, 26, 128, 44, 30
"""Pixels: a laptop's page, a line of text with space around it, about 18 letters, room for curves and for headings."""

_THICKEST = 12.0
"""Pixels: half a row, so that neighbouring lines do not merge."""

_JUST_BELOW_ALL = 1 - 1e-9
"""So that rounding never hides an edge when the threshold is at 100 %."""

_BULGE = 0.9
"""How far an edge inside a column swings out, as a fraction of the space between columns."""


@dataclass(frozen=True)
class _Node:
    name: str
    label: str
    title: str
    kind: str
    x: float
    y: float


@dataclass(frozen=True)
class _Edge:
    source: str
    sink: str
    weight: float
    unit: str
    path: str
    thickness: float
    share: float
    """The edge is shown once at least this share of all weight is."""


def layered(graph: "nx.DiGraph[str]", headings: Sequence[str], *, share: float, name: str) -> Markup:
    """Draw a graph whose nodes stand in columns, the answer last.

    Args:
        graph: Nodes, in the order in which they stand in their column, have ``column``, ``kind`` (their colour),
            ``label`` and ``title``; edges have ``weight``, ``unit`` and, if it is not the weight's size, ``strength``,
            by which edges of different units are compared.
        headings: One per column.
        share: The share of all strength whose strongest edges are shown at first.
        name: What the picture is called.

    Raises:
        ValueError: If ``share`` is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    columns: list[list[str]] = [[] for _ in headings]
    for node in graph:
        columns[int(graph.nodes[node]["column"])].append(node)
    box = min(float(_WIDEST_BOX), (_WIDTH - _BETWEEN * (len(columns) - 1)) / len(columns))
    xs = [i * (_WIDTH - box) / max(1, len(columns) - 1) for i in range(len(columns))]
    nodes = _nodes(graph, columns, xs)
    return render(
        "layered.html.j2",
        name=name,
        heads=list(zip(xs, headings, strict=True)),
        nodes=nodes,
        edges=_edges(graph, {node.name: node for node in nodes}, box, xs[1] - xs[0] - box if len(xs) > 1 else 0.0),
        share=share,
        box=box,
        letters=int(box / 7),
        width=_WIDTH,
        height=_TOP + _ROW * max(map(len, columns)) + 10,
        script=asset("layered.js"),
    )


def _nodes(graph: "nx.DiGraph[str]", columns: Sequence[Sequence[str]], xs: Sequence[float]) -> list[_Node]:
    tallest = max(map(len, columns))
    nodes: list[_Node] = []
    for names, x in zip(columns, xs, strict=True):
        step = min(_ROW * tallest / max(1, len(names)), 3 * _ROW)
        start = _TOP + (_ROW * tallest - step * len(names)) / 2
        for j, name in enumerate(names):
            node: dict[str, Any] = graph.nodes[name]
            nodes.append(_Node(name, node["label"], node["title"], node["kind"], x, start + step * (j + 0.5)))
    return nodes


def _edges(graph: "nx.DiGraph[str]", nodes: dict[str, _Node], box: float, between: float) -> list[_Edge]:
    def strength(data: dict[str, Any]) -> float:
        return abs(float(data["strength"] if "strength" in data else data["weight"]))

    found: list[tuple[str, str, dict[str, Any]]] = list(graph.edges(data=True))
    rows = sorted(found, key=lambda edge: -strength(edge[2]))
    total = sum(strength(data) for _, _, data in rows)
    largest = max((strength(data) for _, _, data in rows), default=1.0)
    edges: list[_Edge] = []
    covered = 0.0
    for source, sink, data in rows:
        size = strength(data)
        path = _curve(nodes[source], nodes[sink], box, between)
        thickness, before = max(0.7, _THICKEST * size / largest), min(covered / total, _JUST_BELOW_ALL)
        edges.append(_Edge(source, sink, float(data["weight"]), data["unit"], path, thickness, before))
        covered += size
    return edges


def _curve(source: _Node, sink: _Node, box: float, between: float) -> str:
    x0, x1 = source.x + box, sink.x
    middle = (x0 + x1) / 2
    if sink.x <= source.x:  # inside a column: out and back on its right
        x1, middle = x0, x0 + _BULGE * between
    return f"M{x0:.1f},{source.y:.1f}C{middle:.1f},{source.y:.1f} {middle:.1f},{sink.y:.1f} {x1:.1f},{sink.y:.1f}"
