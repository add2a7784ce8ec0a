"""The logic chain as a picture and as a page: what a head effect broke, and how the answer came about (paper 3)."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

import networkx as nx
from markupsafe import Markup

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.cna.feature_transferring import Hop
from tl_neuron_attr.cna.head_effects import HeadEffects
from tl_neuron_attr.cna.logic_chain import SMALL_SHARE, LogicChain
from tl_neuron_attr.cna.logic_chains import LogicChains
from tl_neuron_attr.knowledge.flow import ANSWER
from tl_neuron_attr.model.components import head_name
from tl_neuron_attr.results.table import PrintsAsTable
from tl_neuron_attr.results.token_text import visible
from tl_neuron_attr.vis.charts import head_heatmap
from tl_neuron_attr.vis.layered import layered
from tl_neuron_attr.vis.tabs import Line, Tab, paged
from tl_neuron_attr.vis.templates import render
from tl_neuron_attr.vis.view import View
from tl_neuron_attr.vis.views import head_scores, neurons

_FIRST_SHARE = 0.9
"""The share of what is drawn that is shown at first, each stage counted alike."""

_DEEP, _SHALLOW, _DEEP_COLUMNS, _HEADS = 14, 14, 3, 10
"""The most deep neurons, shallow neurons, columns of deep neurons and heads that a page shows without scrolling."""

_PART, _WITH_HEAD = "of the pre-activation", "nats that go with the head"


@typechecked
def head_effects(found: HeadEffects) -> View:
    """Draw one cell per head: how much zeroing it changes log p, in nats; blue heads help the answer, red ones hurt it.

    Raises:
        ValueError: If the effects are of several prompts.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> head_effects(tna.head_effects(tna.demo.load(), "3 + 5 =", "8", progress=False))
        View('heads'): shown in a notebook; .save(path) writes a page
    """
    return head_scores(found.drop.nan_to_num(0))


@typechecked
def chain_flow(found: LogicChain, *, share: float = _FIRST_SHARE) -> View:
    """Draw the chain: positions, shallow neurons, attention hop, head, deep neurons, answer.

    Drag the threshold, point at a node for its paths and tokens. A line's width compares it with those of its own
    stage; blue raises, red and dashed lowers: up to the head the root's pre-activation, between deep neurons
    that of the higher one, and then the answer's log-probability.

    Args:
        found: From :func:`~tl_neuron_attr.cna.logic_chain`.
        share: The share of each stage whose strongest lines are shown at first.

    Raises:
        ValueError: If ``share`` is not above 0 and at most 1.

    Examples:
        >>> from tl_neuron_attr import cna, demo
        >>> chain_flow(cna.logic_chain(demo.load(), "3 + 5 ="))
        View('logic chain'): shown in a notebook; .save(path) writes a page
    """
    graph, headings = _graph(found)
    return View(layered(graph, headings, share=share, name="logic chain"), "logic chain")


@typechecked
def logic_chain(found: LogicChain, *, name: str = "") -> View:
    """Make one page that explains an answer: head effects, the chain, and the tables of its four stages.

    Args:
        found: From :func:`~tl_neuron_attr.cna.logic_chain`.
        name: What to call the model.

    Examples:
        >>> from tl_neuron_attr import cna, demo
        >>> logic_chain(cna.logic_chain(demo.load(), "3 + 5 ="))
        View('From the tokens to 8'): shown in a notebook; .save(path) writes a page
    """
    predicting = found.feature_predicting
    whole, best = not bool(predicting.effects.prob.isnan().any()), predicting.effects.ranked()[:_HEADS]
    body = render(
        "chain.html.j2",
        found=found,
        name=name,
        head=head_name(*found.head),
        root=found.prediction_enhancing.root_neuron.flat_labels[0],
        before=float(predicting.effects.base_prob),
        after=float(predicting.left),
        heatmap=head_heatmap(predicting.effects.drop.nan_to_num(0)) if whole else Markup(),
        explained=found.explained if isfinite(found.explained) else None,
        small=found.explained < SMALL_SHARE,
        heads=[(head_name(*h), float(predicting.effects.drop[h]), float(predicting.effects.prob[h])) for h in best],
        picture=chain_flow(found).body,
        deep=neurons(predicting.neurons).body,
        compared=_html(predicting),
        stages={stage: _html(each) for stage, each in _stages(found).items()},
    )
    return View(body, f"From the tokens to {visible(found.answer.strip())}", whole=True)


@typechecked
def logic_chains(found: LogicChains, *, name: str = "") -> View:
    """Make one page of an answer's chains: a click on a token shows how it came about.

    Args:
        found: From :func:`~tl_neuron_attr.cna.logic_chains`.
        name: What to call the model.

    Examples:
        >>> from tl_neuron_attr import cna, demo
        >>> chains = cna.logic_chains(demo.load(), "Tim Duncan plays the sport of", " basketball .", k=60)
        >>> logic_chains(chains)
        View('From the tokens to basketball ., token by token'): shown in a notebook; .save(path) writes a page
    """
    tabs = [
        Tab(chain.answer, logic_chain(chain, name=name).body, float(chain.feature_predicting.effects.base_prob))
        for chain in found.chains
    ]
    title = f"From the tokens to {visible(found.answer.strip())}, token by token"
    heading, whole = Markup("<h1>{}</h1>").format(title), Markup('<div class="scroll">{}</div>').format(_html(found))
    first = Tab("all tokens", whole, whole=True)
    return paged([Line(found.chains[0].tokens, tuple(tabs))], heading, title, first=first)


def _stages(found: LogicChain) -> dict[str, PrintsAsTable]:
    return {
        "enhancing": found.prediction_enhancing,
        "transferring": found.feature_transferring,
        "features": found.feature_enhancing,
    }


def _html(found: PrintsAsTable) -> Markup:
    return Markup(found.table().html())


def _graph(found: LogicChain) -> "tuple[nx.DiGraph[str], list[str]]":
    """Return the chain's graph as the picture takes it, and the columns' headings."""
    head, *further = found.feature_transferring.hops
    graph: nx.DiGraph[str] = nx.DiGraph()
    headings = ["tokens", "shallow neurons", *(["attention hop"] if further else []), "head"]
    at_head = len(headings) - 1
    for pos, token in enumerate(found.tokens):
        _add(graph, f"@{pos}", 0, "position", visible(token), f"{visible(token)} at position {pos}")
    _add_shallow(graph, found)
    for hop in reversed(further):
        _add(graph, _hop_name(hop), at_head - 1, "head", _hop_name(hop), f"attention of layer {hop.layer}")
    _add(graph, _hop_name(head), at_head, "head", head.name, f"{head.name}, the head that matters most")
    headings += _add_deep(graph, found, at_head + 1)
    answer = visible(found.answer)
    _add(
        graph,
        ANSWER,
        len(headings),
        "answer",
        answer,
        f"{answer}: p {float(found.feature_predicting.effects.base_prob):.4f}",
    )
    _connect(graph, found)
    graph.remove_nodes_from([n for n in list(nx.isolates(graph)) if n != ANSWER])
    return _scaled(graph), [*headings, "answer"]


def _add(graph: "nx.DiGraph[str]", name: str, column: int, kind: str, label: str, title: str) -> None:
    graph.add_node(name, column=column, kind=kind, label=label, title=title)


def _add_shallow(graph: "nx.DiGraph[str]", found: LogicChain) -> None:
    rows = found.feature_enhancing.to_frame().head(_SHALLOW)
    for row in rows.sort_values(["pos", "layer"]).to_dict("records"):
        tokens_shown = "".join(f"\n{when} the hop: {_listed(row[when])}" for when in ("before", "after"))
        _add(graph, row["neuron"], 1, "query", row["neuron"], f"{row['neuron']} {visible(row['token'])}{tokens_shown}")


def _add_deep(graph: "nx.DiGraph[str]", found: LogicChain, first: int) -> list[str]:
    """Add deep neurons in columns by layer, and return the columns' headings."""
    rows = {row["neuron"]: row for row in found.feature_predicting.neurons.to_frame().to_dict("records")}
    shown = _shown(found)
    layers = sorted({rows[name]["layer"] for name in shown})
    columns = {layer: i * min(len(layers), _DEEP_COLUMNS) // len(layers) for i, layer in enumerate(layers)}
    root = found.prediction_enhancing.root_neuron.flat_labels[0]
    for name in sorted(shown, key=lambda name: (rows[name]["layer"], rows[name]["rank"])):
        row = rows[name]
        tokens_shown = f"\npromotes {_listed(row['promoted'])}" if "promoted" in row else ""
        is_root = " (root)" if name == root else ""
        title = f"{name}{is_root}: {row['score']:+.3f} {_WITH_HEAD}{tokens_shown}"
        _add(graph, name, first + columns[row["layer"]], "value", name, title)
    return [_layers([la for la in layers if columns[la] == i]) for i in range(max(columns.values()) + 1)]


def _layers(layers: list[int]) -> str:
    return f"deep, layer {layers[0]}" if len(layers) == 1 else f"deep, {layers[0]} to {layers[-1]}"


def _shown(found: LogicChain) -> list[str]:
    """Return the deep neurons drawn: those of the largest change, and the root."""
    best = found.feature_predicting.neurons.flat_labels[:_DEEP]
    root = found.prediction_enhancing.root_neuron.flat_labels[0]
    return best if root in best else [*best[:-1], root]


def _connect(graph: "nx.DiGraph[str]", found: LogicChain) -> None:
    """Add the lines of every stage, with their weights."""
    by_name = {hop.name: _hop_name(hop) for hop in found.feature_transferring.hops}
    for row in found.feature_enhancing.to_frame().head(_SHALLOW).to_dict("records"):
        _line(graph, f"@{row['pos']}", row["neuron"], row["sum"], _PART, "read")
        _line(graph, row["neuron"], by_name[row["hop"]], row["sum"], _PART, "shallow")
    hops = found.feature_transferring.hops
    for hop, below in zip(hops, [*hops[1:], None], strict=True):
        for pos, weight in enumerate(hop.total[0].tolist()):  # what the embedding wrote, no neuron between
            _line(graph, f"@{pos}", _hop_name(hop), weight, _PART, "tokens")
        if below is not None:
            weight = float(hop.total[1 + 2 * below.layer, below.pos])
            _line(graph, _hop_name(below), _hop_name(hop), weight, _PART, "hop")
    shown, deep = set(_shown(found)), found.feature_predicting.neurons
    for name, change in zip(deep.flat_labels, deep.flat("score"), strict=True):
        if name in shown:
            _line(graph, _hop_name(hops[0]), name, change, _WITH_HEAD, "head")
            _line(graph, name, ANSWER, change, _WITH_HEAD, "answer")
    for row in found.prediction_enhancing.to_frame().to_dict("records"):
        if {row["from"], row["to"]} <= shown:
            _line(graph, row["from"], row["to"], row["sum"], _PART, "deep")


def _hop_name(hop: Hop) -> str:
    """Return a head's name, or that of all heads of a layer with the position they wrote to."""
    return hop.name if hop.head is not None else f"{hop.name}@{hop.pos}"


def _line(graph: "nx.DiGraph[str]", source: str, sink: str, weight: float, unit: str, stage: str) -> None:
    """Add a line, or its weight to the line that is already there."""
    if graph.has_edge(source, sink):
        weight += graph.edges[source, sink]["weight"]
    if weight != 0:
        graph.add_edge(source, sink, weight=weight, unit=unit, stage=stage)


def _scaled(graph: "nx.DiGraph[str]") -> "nx.DiGraph[str]":
    """Set the strength of each line: its share of its own stage."""
    edges: list[tuple[str, str, Mapping[str, Any]]] = list(graph.edges(data=True))
    totals: dict[str, float] = {}
    for _, _, data in edges:
        totals[data["stage"]] = totals.get(data["stage"], 0.0) + abs(data["weight"])
    for source, sink, data in edges:
        graph.edges[source, sink]["strength"] = abs(data["weight"]) / totals[data["stage"]]
    return graph


def _listed(tokens: list[str]) -> str:
    return " | ".join(visible(token) for token in tokens)
