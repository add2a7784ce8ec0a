"""A flow in the attribution-graph schema of circuit-tracer, whose front end then draws it.

That schema knows features, embeddings and logits. Neurons and heads are features of their layer, at the position they
stand at; a head's number is counted from :data:`HEAD_FEATURES`, so that it is no neuron's. An id may stand there once,
so a neuron that is a value neuron and a query neuron of the position scored is one feature, with the links of both.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import networkx as nx

from tl_neuron_attr.results.token_text import visible

HEAD_FEATURES = 1_000_000
"""Above the number of neurons of any layer."""

EXPERT_FEATURES = 10_000_000
"""Neurons of expert ``e`` are counted from ``e + 1`` times this: more than any head or neuron of a dense layer."""

_FEATURE = "cross layer transcoder"
"""What the schema calls a feature, of whatever kind."""


def graph_json(graph: "nx.DiGraph[str]", answer: str, slug: str) -> dict[str, object]:
    """Return a flow's graph as circuit-tracer's front end reads it.

    Args:
        graph: Of a :class:`~tl_neuron_attr.Flow`.
        answer: The target's text.
        slug: What the front end calls the graph.
    """
    tokens = [str(token) for token in graph.graph["tokens"]]
    nodes = {name: _node(graph, str(name), data, answer) for name, data in graph.nodes(data=True)}
    ids = {name: str(node["node_id"]) for name, node in nodes.items()}
    by_id: dict[str, dict[str, object]] = {}
    for name, node in nodes.items():
        by_id.setdefault(ids[name], node)  # value neurons come first
    links: Counter[tuple[str, str]] = Counter()
    for a, b, weight in graph.edges(data="weight"):
        links[ids[a], ids[b]] += weight
    return {
        "metadata": {
            "slug": slug,
            "scan": "tl_neuron_attr",
            "transcoder_list": [],
            "prompt_tokens": tokens,
            "prompt": "".join(tokens),
            "node_threshold": 1.0,
            "schema_version": 1,
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": list(by_id.values()),
        "links": [{"source": a, "target": b, "weight": weight} for (a, b), weight in links.items()],
    }


def _node(graph: "nx.DiGraph[str]", name: str, data: Mapping[str, Any], answer: str) -> dict[str, object]:
    kind, prob = data["kind"], float(graph.graph["prob"])
    pos = int(graph.graph["pos"] if data["pos"] < 0 else data["pos"])
    layer, feature, shown, kind_there = str(data["layer"]), _feature(name), f"{name} {data['word']}".strip(), _FEATURE
    if kind == "position":
        layer, feature, shown, kind_there = "E", pos, visible(data["text"]) or name, "embedding"
    elif kind == "answer":
        layer, feature = str(graph.graph["n_layers"] + 1), 0
        shown, kind_there = f'Output "{answer}" (p={prob:.3f})', "logit"
    return {
        "node_id": f"{layer}_{feature}_{pos}",
        "jsNodeId": f"{layer}_{feature}-{pos}",
        "feature": feature,
        "layer": layer,
        "ctx_idx": pos,
        "feature_type": kind_there,
        "token_prob": prob if kind == "answer" else 0.0,
        "is_target_logit": kind == "answer",
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "clerp": shown,
        "influence": None,
        "activation": None,
    }


def _feature(name: str) -> int:
    """Return the number of ``L3N14``, ``L3E2N14``, ``L3N14@5`` or ``L12H2`` in its layer; 0 for what is none."""
    found = re.match(r"L\d+(?:E(\d+))?([NH])(\d+)", name)
    if found is None:
        return 0
    of_expert = EXPERT_FEATURES * (int(found[1]) + 1) if found[1] else 0
    return int(found[3]) + of_expert + (HEAD_FEATURES if found[2] == "H" else 0)
