"""The flow picture: tokens on the left, the answer on the right, and what passes between them.

Laid out here and drawn as SVG, so that it prints and is there without a script; the script adds the threshold and
shows, for the node pointed at, the paths that lead to it and from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tl_neuron_attr.checked import checked
from tl_neuron_attr.flow import ANSWER, Flow
from tl_neuron_attr.tokens import visible
from tl_neuron_attr.vis.templates import asset, render
from tl_neuron_attr.vis.view import View

COLUMNS = {
    "position": "tokens",
    "query": "shallow neurons",
    "head": "heads",
    "value": "deep neurons",
    "answer": "answer",
}
FIRST_SHARE = 0.85
"""The share of all weight shown at first."""

_WIDTH, _GAP, _ROW, _BOX, _TOP = 1000, 24, 26, 128, 30
_THICKEST = 12.0
_JUST_BELOW_ALL = 1 - 1e-9


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
    path: str
    thickness: float
    share: float
    """The edge is shown once at least this share of all weight is."""


@checked
def flow(found: Flow, *, share: float = FIRST_SHARE) -> View:
    """A flow as a picture: drag the threshold, point at a node for its paths, its tokens and what it passes on.

    Args:
        found: From :func:`~tl_neuron_attr.trace`.
        share: The share of all weight whose strongest edges are shown at first.

    Raises:
        ValueError: If ``share`` is not above 0 and at most 1.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> flow(tna.trace(cache, " basketball"))
        View('flow'): shown in a notebook; .save(path) writes a page
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    columns = _columns(found)
    nodes = _nodes(found, columns)
    height = _TOP + _ROW * max(len(names) for names in columns.values()) + 10
    body = render(
        "flow.html.j2",
        heads=[(_x(i, len(columns)), COLUMNS[kind]) for i, kind in enumerate(columns)],
        nodes=nodes,
        edges=_edges(found, {node.name: node for node in nodes}),
        share=share,
        box=_BOX,
        row=_ROW,
        width=_WIDTH,
        height=height,
        script=asset("flow.js"),
    )
    return View(Markup(body), "flow")


def _columns(found: Flow) -> dict[str, list[str]]:
    """The nodes of each kind, tokens in order, the others by layer and then by what passes through them."""
    graph = found.graph

    def place(name: str) -> tuple[float, float]:
        node = graph.nodes[name]
        first, second = ("pos", "layer") if node["kind"] in ("position", "query") else ("layer", "pos")
        through = 0.0 if first == "pos" else -abs(float(graph.out_degree(name, weight="weight")))
        return float(node[first]), float(node[second]) + through

    of_kind = {kind: [name for name in graph if graph.nodes[name]["kind"] == kind] for kind in COLUMNS}
    return {kind: sorted(names, key=place) for kind, names in of_kind.items() if names}


def _nodes(found: Flow, columns: Mapping[str, list[str]]) -> list[_Node]:
    tallest = max(len(names) for names in columns.values())
    nodes: list[_Node] = []
    for i, (kind, names) in enumerate(columns.items()):
        step = min(_ROW * tallest / len(names), 3 * _ROW)
        start = _TOP + (_ROW * tallest - step * len(names)) / 2
        for j, name in enumerate(names):
            label, title = _words(found, name)
            nodes.append(_Node(name, label, title, kind, _x(i, len(columns)), start + step * (j + 0.5)))
    return nodes


def _words(found: Flow, name: str) -> tuple[str, str]:
    """A node's label, and what is said of it when it is pointed at."""
    node: Mapping[str, Any] = found.graph.nodes[name]
    into, out = (float(degree(name, weight="weight")) for degree in (found.graph.in_degree, found.graph.out_degree))
    if name == ANSWER:
        return visible(found.answer), f"{visible(found.answer)}: {into:+.3f} nats"
    text = f" {visible(node['text'])}" if node["text"] else ""
    says = f"\npromotes {' | '.join(visible(t) for t in node['tokens'])}" if node["tokens"] else ""
    label = visible(node["text"]) or name if node["kind"] == "position" else name
    return label, f"{name}{text}: passes on {out:+.3f} nats{says}"


def _edges(found: Flow, nodes: Mapping[str, _Node]) -> list[_Edge]:
    rows = found.to_frame().to_dict("records")
    total = sum(abs(row["weight"]) for row in rows)
    largest = max((abs(row["weight"]) for row in rows), default=1.0)
    edges: list[_Edge] = []
    held = 0.0
    for row in rows:
        weight = float(row["weight"])
        path = _curve(nodes[row["from"]], nodes[row["to"]])
        thickness = max(0.7, _THICKEST * abs(weight) / largest)
        edges.append(_Edge(row["from"], row["to"], weight, path, thickness, min(held / total, _JUST_BELOW_ALL)))
        held += abs(weight)
    return edges


def _curve(source: _Node, sink: _Node) -> str:
    x0, x1 = source.x + _BOX, sink.x
    middle = (x0 + x1) / 2
    return f"M{x0:.1f},{source.y:.1f}C{middle:.1f},{source.y:.1f} {middle:.1f},{sink.y:.1f} {x1:.1f},{sink.y:.1f}"


def _x(column: int, columns: int) -> float:
    return column * (_WIDTH - _BOX) / max(1, columns - 1)
