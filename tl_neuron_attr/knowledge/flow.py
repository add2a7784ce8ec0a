"""The flow of one prediction: tokens -> query neurons -> attention heads -> value neurons -> the answer.

Paper 1, section 4.4: value neurons carry the answer's score; what switched them on is traced back. The parts of the
graph, all weights in nats:

    MLP value neuron -> answer      its score
    head -> answer                  the scores of its attention value neurons
    head -> MLP value neuron        the query scores of the head's neurons for that value neuron
    position -> head                what the head read there for both, less what query neurons account for
    query neuron -> head            the query scores of an MLP neuron at that position for the head's value neurons
    position -> query neuron        what the neuron passes on
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache
from typing_extensions import Unpack

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.knowledge import flow_edges
from tl_neuron_attr.knowledge.flow_edges import QueryNeuronAt
from tl_neuron_attr.knowledge.flow_file import read_flow, write_flow
from tl_neuron_attr.knowledge.graph_json import graph_json
from tl_neuron_attr.knowledge.query_neurons import weighted_subkeys
from tl_neuron_attr.knowledge.token_words import TokenWords
from tl_neuron_attr.knowledge.value_neurons import value_neurons
from tl_neuron_attr.knowledge.vocabulary import prompt_tokens, signed_directions
from tl_neuron_attr.model.components import Head, head_name
from tl_neuron_attr.model.scored import as_scored
from tl_neuron_attr.model.scored_cache import ScoredCache, Scoring
from tl_neuron_attr.model.subkeys import Key
from tl_neuron_attr.model.targets import Target
from tl_neuron_attr.numerics.increase import MAX_BYTES
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.results.plural import plural
from tl_neuron_attr.results.storage import write_text
from tl_neuron_attr.results.table import PrintsAsTable, Table
from tl_neuron_attr.results.token_text import visible

if TYPE_CHECKING:
    Graph = nx.DiGraph[str]
else:
    Graph = nx.DiGraph

ANSWER = "answer"
_TOKENS = 6
"""Promoted tokens kept with a neuron: a line of them."""


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class Flow(PrintsAsTable):
    """A prediction as a weighted graph.

    Attributes:
        graph: A ``networkx.DiGraph``. Nodes have ``kind`` (``position``, ``query``, ``head``, ``value``, ``answer``),
            ``layer`` (-1 for positions), ``pos`` (-1 for heads), ``text`` (the token of a position), ``tokens`` (what a
            neuron promotes) and ``word`` (the first of them that is a word); edges have ``weight``, in nats. The graph
            itself has ``tokens``, the prompt's, ``pos``, the position scored, ``n_layers``, and ``prob``, the target's.
        answer: The target's text.
    """

    graph: Graph
    answer: str

    @typechecked
    def prune(self, share: float) -> "Flow":
        """Return the strongest edges that hold ``share`` of all weight, without those that then lead nowhere.

        Raises:
            ValueError: If ``share`` is not above 0 and at most 1.

        Examples:
            >>> import tl_neuron_attr as tna
            >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
            >>> flow = tna.trace(cache, " basketball")
            >>> len(flow.prune(0.5).graph) < len(flow.graph)
            True
        """
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share}")
        edges = self._strongest_first()
        total, kept, kept_weight = sum(abs(w) for *_, w in edges), Graph(**self.graph.graph), 0.0
        kept.add_nodes_from(self.graph.nodes(data=True))
        for source, sink, weight in edges:
            if kept_weight >= share * total:
                break
            kept.add_edge(source, sink, weight=weight)
            kept_weight += abs(weight)
        leading = nx.ancestors(kept, ANSWER) | {ANSWER}
        return replace(self, graph=kept.subgraph(leading).copy())

    def to_frame(self) -> pd.DataFrame:
        """Return one row per edge, strongest first: from, to, weight."""
        rows = [
            {"from": a, "to": b, "kind": self.graph.nodes[a]["kind"], "weight": w}
            for a, b, w in self._strongest_first()
        ]
        return pd.DataFrame(rows, columns=["from", "to", "kind", "weight"])

    @typechecked
    def save(self, path: str | Path) -> None:
        """Write a JSON file of nodes and edges; it appears whole or not at all."""
        write_flow(path, self.graph, self.answer)

    @classmethod
    @typechecked
    def load(cls, path: str | Path) -> "Flow":
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is malformed, naming the field.

        Examples:
            >>> from tempfile import mkdtemp
            >>> import tl_neuron_attr as tna
            >>> _, cache = tna.demo.load().run_with_cache("3 + 5 =")
            >>> flow, path = tna.trace(cache), Path(mkdtemp()) / "flow.json"
            >>> flow.save(path)
            >>> str(Flow.load(path)) == str(flow)
            True
        """
        return cls(*read_flow(path))

    @typechecked
    def to_graph_json(self, path: str | Path) -> Path:
        """Write the graph in circuit-tracer's attribution-graph schema, for its front end; whole or not at all.

        Args:
            path: The file; its name without the ending is the graph's.

        Raises:
            ValueError: If the graph was not made by :func:`trace`.

        Examples:
            >>> import tl_neuron_attr as tna
            >>> from tempfile import mkdtemp
            >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
            >>> tna.trace(cache, " basketball").to_graph_json(Path(mkdtemp()) / "duncan.json").name
            'duncan.json'
        """
        missing = {"tokens", "pos", "n_layers", "prob"} - {*self.graph.graph}
        if missing:
            raise ValueError(f"graph lacks {', '.join(sorted(missing))}: write a flow that tna.trace made")
        return write_text(path, json.dumps(graph_json(self.graph, self.answer, Path(path).stem), allow_nan=False))

    def table(self) -> Table:
        """Return the strongest edges."""
        named = [(self._name(r["from"]), self._name(r["to"]), r["weight"]) for r in self.to_frame().to_dict("records")]
        count = self.graph.number_of_edges()
        return Table(("from", "to", "weight"), named[:30], f"the strongest of {plural(count, 'edge')}, in nats")

    def _strongest_first(self) -> list[tuple[str, str, float]]:
        edges: list[tuple[str, str, float]] = list(self.graph.edges(data="weight"))
        return sorted(edges, key=lambda edge: -abs(edge[2]))

    def _name(self, node: str) -> str:
        data = self.graph.nodes[node]
        if data["kind"] == "answer":
            return visible(self.answer)
        return f"{node} {visible(data['text'])}".strip() if data["kind"] in ("position", "query") else node


@typechecked
@torch.no_grad()
def trace(
    cache: ActivationCache | ScoredCache,
    target: Target | None = None,
    *,
    value: Neurons | None = None,
    k: int = 30,
    heads: int = 12,
    queries: int = 20,
    key: Key = "both",
    max_bytes: int = MAX_BYTES,
    **scoring: Unpack[Scoring],
) -> Flow:
    """Follow a prediction from the tokens to the answer.

    Args:
        cache: A cache of one prompt's forward pass, or what :func:`~tl_neuron_attr.scored` made of it, which has its
            own target and scoring.
        target: The token followed.
        value: The value neurons that carry the answer, if they have been found already.
        k: The number of value neurons to search for otherwise.
        heads: The number of heads: those through which most passes.
        queries: The number of query neurons between tokens and heads, each at its position.
        key: The subkey of a gated MLP neuron, as in :func:`~tl_neuron_attr.query_layers`.
        max_bytes: A cap on the working set.
        **scoring: ``pos``, ``contrast``, ``model``, ``final_bias``: see :func:`~tl_neuron_attr.scored`.

    Raises:
        ValueError: If the cache holds several prompts, ``heads`` or ``queries`` is negative, ``value`` is of another
            cache, or as :func:`~tl_neuron_attr.value_neurons`.
        IndexError: If a position or token id is out of range.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> flow = trace(cache, " basketball", k=30, queries=5)
        >>> sorted({kind for _, kind in flow.graph.nodes(data="kind")})
        ['answer', 'head', 'position', 'query', 'value']
    """
    for name, count in (("heads", heads), ("queries", queries)):
        if count < 0:
            raise ValueError(f"{name} must be 0 or more, got {count}")
    q = as_scored(cache, target, max_bytes=max_bytes, **scoring)
    if len(q) != 1:
        raise ValueError(f"cache holds {len(q)} prompts; a flow is of one: cache a single prompt")
    if len(q.places.row.unique()) > 1:
        raise ValueError("a flow is of one run: follow the answer and its contrast each in a flow of its own")
    found = value_neurons(q, k=k, max_bytes=max_bytes) if value is None else value
    value = found[0] if found.batched else found
    return flow_of(q, value, TokenWords(q.stream.model, q.readout), heads=heads, queries=queries, key=key)


def flow_of(q: ScoredCache, value: Neurons, words: TokenWords, *, heads: int, queries: int, key: Key = "both") -> Flow:
    """Return what :func:`trace` does from value neurons that have been found; ``words`` lists what neurons promote."""
    stream, rows = weighted_subkeys(q, value, key=key, sites=("attn", "mlp"))
    direct, through = flow_edges.direct(stream, value), flow_edges.through_heads(stream, rows, value)
    shown = flow_edges.best_heads(direct + through.sum(0), heads)
    chosen = flow_edges.query_neurons_at(stream, rows, value, shown, queries)
    graph = _graph(q, value, direct, through, shown, chosen, words)
    return Flow(graph, q.followed[0])


def _graph(
    q: ScoredCache,
    value: Neurons,
    direct: Float[Tensor, "layer head source"],
    through: Float[Tensor, "neuron layer head source"],
    heads: Sequence[Head],
    queries: Sequence[QueryNeuronAt],
    words: TokenWords,
) -> Graph:
    stream, mlp = q.stream, value.of_site("mlp")
    ids = stream.tokens()
    tokens = prompt_tokens(stream.model, ids)[0] if ids is not None else ("",) * stream.shape[1]
    prob = float(q.log_prob.reshape(-1)[0].exp()) if q.sums is not None else float(q.final().target_log_p()[0].exp())
    graph = Graph(tokens=tokens, pos=int(q.places.pos.max()), n_layers=stream.n_layers, prob=prob)
    graph.add_node(ANSWER, kind="answer", layer=stream.n_layers, pos=-1, text="", tokens=(), word="")
    of_value, of_queries = _promoted(q, words, mlp, _as_neurons(queries))
    for name, layer, promoted in zip(mlp.flat_labels, mlp.flat("layer"), of_value, strict=True):
        graph.add_node(name, kind="value", layer=layer, pos=-1, text="", **promoted)
    for layer, head in heads:
        graph.add_node(head_name(layer, head), kind="head", layer=layer, pos=-1, text="", tokens=(), word="")
    for neuron, promoted in zip(queries, of_queries, strict=True):
        at = {"layer": neuron.layer, "pos": neuron.pos, "text": tokens[neuron.pos]}
        graph.add_node(neuron.name, kind="query", **at, **promoted)
    for pos, token in enumerate(tokens):
        graph.add_node(f"@{pos}", kind="position", layer=-1, pos=pos, text=token, tokens=(), word="")
    graph.add_weighted_edges_from(edge for edge in _edges(mlp, direct, through, heads, queries) if edge[2] != 0)
    graph.remove_nodes_from([node for node in list(nx.isolates(graph)) if node != ANSWER])
    return graph


def _edges(
    mlp: Neurons,
    direct: Float[Tensor, "layer head source"],
    through: Float[Tensor, "neuron layer head source"],
    heads: Sequence[Head],
    queries: Sequence[QueryNeuronAt],
) -> list[tuple[str, str, float]]:
    edges = [(name, ANSWER, score) for name, score in zip(mlp.flat_labels, mlp.flat("score"), strict=True)]
    for layer, head in heads:
        here = head_name(layer, head)
        edges.append((here, ANSWER, float(direct[layer, head].sum())))
        edges += [(here, name, float(t[layer, head].sum())) for name, t in zip(mlp.flat_labels, through, strict=True)]
        for pos, weight in enumerate((direct[layer, head] + through[:, layer, head].sum(0)).tolist()):
            passing = sum(s.to.get((layer, head), 0.0) for s in queries if s.pos == pos)
            edges.append((f"@{pos}", here, weight - passing))
    for neuron in queries:
        edges += [(neuron.name, head_name(layer, head), weight) for (layer, head), weight in neuron.to.items()]
        edges.append((f"@{neuron.pos}", neuron.name, sum(neuron.to.values())))
    return edges


def _promoted(q: ScoredCache, words: TokenWords, *groups: Neurons) -> list[list[dict[str, Any]]]:
    """Return, for each neuron of some groups, the tokens it promotes, and the first word among those a page lists."""
    directions = [signed_directions(q.stream.model, neurons) for neurons in groups if len(neurons)]
    found = words.promoted(torch.cat(directions), int(q.target[0])) if directions else []
    rows = iter({"tokens": each.tokens[:_TOKENS], "word": next(iter(each.readable), "")} for each in found)
    return [list(islice(rows, len(neurons))) for neurons in groups]


def _as_neurons(queries: Sequence[QueryNeuronAt]) -> Neurons:
    return Neurons.of_mlp(
        torch.tensor([s.layer for s in queries], dtype=torch.long),
        torch.tensor([s.index for s in queries], dtype=torch.long),
        coefficient=torch.tensor([s.coefficient for s in queries]),
        score=torch.tensor([sum(s.to.values()) for s in queries]),
    )
