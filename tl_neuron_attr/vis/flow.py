"""The flow picture: tokens from left to right, layers upwards, and what passes between them up to the answer."""

from collections.abc import Mapping
from typing import Any

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.knowledge.flow import ANSWER, Flow
from tl_neuron_attr.results.token_text import visible
from tl_neuron_attr.vis.page_data import page_data
from tl_neuron_attr.vis.templates import asset, render
from tl_neuron_attr.vis.view import View

_FIRST_SHARE = 0.85
"""The share of all weight shown at first: some twenty lines on the bundled model."""

_JUST_BELOW_ALL = 1 - 1e-9
"""So that rounding never hides an edge when the threshold is at 100 %."""

_DIGITS = 5
"""Of weights in the page: nats to 1e-5."""


@typechecked
def flow(found: Flow, *, share: float = _FIRST_SHARE) -> View:
    """Draw a flow: one column per token, one row per layer, the answer on top.

    Point at a node for its paths; click it, or press Enter on it, to pin it and to open a panel with its inputs and
    outputs by weight. Two thresholds say which edges and nodes are shown; what leads nowhere leaves, and so do tokens
    that pass nothing.

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
    tokens = [visible(token) or f"@{i}" for i, token in enumerate(found.graph.graph["tokens"])]
    graph = {"tokens": tokens, "nodes": _nodes(found), "edges": _edges(found)}
    scripts = {"script": asset("flow.js"), "page": asset("page.js")}
    return View(render("flow.html.j2", graph=page_data(graph), share=share, **scripts), "flow")


def _nodes(found: Flow) -> list[dict[str, object]]:
    """Return the nodes: what is written in each, where it stands, and what it is."""
    last: int = found.graph.graph["pos"]
    nodes: list[dict[str, object]] = []
    for name, node in found.graph.nodes(data=True):
        at = last if node["pos"] < 0 else node["pos"]
        nodes.append({
            "name": name,
            "unit": name.split("@")[0] or name,
            "kind": node["kind"],
            "at": at,
            "level": _level(node),
            "label": _label(found, name, node),
            "word": visible(node["word"] or _read_most(found, name, node)).strip("␣"),
            "promotes": [visible(token) for token in node["tokens"]],
        })  # fmt: skip
    return nodes


def _edges(found: Flow) -> list[dict[str, object]]:
    """Return the edges, strongest first, each with the share of all weight that stands before it."""
    records = found.to_frame().to_dict("records")
    total, before, edges = sum(abs(row["weight"]) for row in records), 0.0, list[dict[str, object]]()
    for row in records:
        share = min(before / total, _JUST_BELOW_ALL)
        edges.append({"from": row["from"], "to": row["to"], "weight": round(row["weight"], _DIGITS), "share": share})
        before += abs(row["weight"])
    return edges


def _level(node: Mapping[str, Any]) -> int:
    """Return a node's height: 0 for tokens, then two a layer, its attention below its MLP."""
    return 2 * (node["layer"] + 1) - (node["kind"] == "head")


def _label(found: Flow, name: str, node: Mapping[str, Any]) -> str:
    if name == ANSWER:
        return visible(found.answer)
    return (visible(node["text"]) or name) if node["kind"] == "position" else name.split("@")[0]


def _read_most(found: Flow, name: str, node: Mapping[str, Any]) -> str:
    """Return the token that passes most to a head, by itself or by neurons at it; the empty string for other nodes."""
    if node["kind"] != "head":
        return ""
    weights: dict[int, float] = {}
    for source, _, weight in found.graph.in_edges(name, data="weight"):
        pos = found.graph.nodes[source]["pos"]
        weights[pos] = weights.get(pos, 0.0) + weight
    return found.graph.graph["tokens"][max(weights, key=lambda pos: abs(weights[pos]))] if weights else ""
