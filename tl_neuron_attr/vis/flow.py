"""The flow picture: tokens on the left, the answer on the right, and what passes between them."""

from collections.abc import Mapping
from typing import Any

import networkx as nx

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.knowledge.flow import ANSWER, Flow
from tl_neuron_attr.results.token_text import visible
from tl_neuron_attr.vis.layered import layered
from tl_neuron_attr.vis.view import View

_COLUMNS = {
    "position": "tokens",
    "query": "shallow neurons",
    "head": "heads",
    "value": "deep neurons",
    "answer": "answer",
}
_FIRST_SHARE = 0.85
"""The share of all weight shown at first: some twenty lines on the bundled model."""


@typechecked
def flow(found: Flow, *, share: float = _FIRST_SHARE) -> View:
    """Draw a flow: drag the threshold, point at a node for its paths, its tokens and what it passes on.

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
    columns = _columns(found)
    graph: nx.DiGraph[str] = nx.DiGraph()
    for column, (kind, names) in enumerate(columns.items()):
        for name in names:
            label, title = _texts(found, name)
            graph.add_node(name, column=column, kind=kind, label=label, title=title)
    for row in found.to_frame().to_dict("records"):
        graph.add_edge(row["from"], row["to"], weight=row["weight"], unit="nats")
    return View(
        layered(graph, [_COLUMNS[kind] for kind in columns], share=share, name="flow of the prediction"), "flow"
    )


def _columns(found: Flow) -> dict[str, list[str]]:
    """Return the nodes of each kind: tokens in order, the others by layer and then by what passes through them."""
    graph = found.graph

    def rank(name: str) -> tuple[float, float]:
        node = graph.nodes[name]
        first, second = ("pos", "layer") if node["kind"] in ("position", "query") else ("layer", "pos")
        through = 0.0 if first == "pos" else -abs(float(graph.out_degree(name, weight="weight")))
        return float(node[first]), float(node[second]) + through

    of_kind = {kind: [name for name in graph if graph.nodes[name]["kind"] == kind] for kind in _COLUMNS}
    return {kind: sorted(names, key=rank) for kind, names in of_kind.items() if names}


def _texts(found: Flow, name: str) -> tuple[str, str]:
    """Return a node's label, and the text shown when it is pointed at."""
    node: Mapping[str, Any] = found.graph.nodes[name]
    into, out = (float(degree(name, weight="weight")) for degree in (found.graph.in_degree, found.graph.out_degree))
    if name == ANSWER:
        return visible(found.answer), f"{visible(found.answer)}: {into:+.3f} nats"
    text = f" {visible(node['text'])}" if node["text"] else ""
    promoted = f"\npromotes {' | '.join(visible(t) for t in node['tokens'])}" if node["tokens"] else ""
    label = visible(node["text"]) or name if node["kind"] == "position" else name
    return label, f"{name}{text}: passes on {out:+.3f} nats{promoted}"
