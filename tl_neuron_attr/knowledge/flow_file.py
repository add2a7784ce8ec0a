"""The file of :class:`~tl_neuron_attr.Flow`: JSON, checked field by field when it is read."""

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import networkx as nx

from tl_neuron_attr.results.rows import read_utf8
from tl_neuron_attr.results.storage import write_text

_SCHEMA = "tl_neuron_attr.flow.1"
_OF_NODE: dict[str, type] = {"kind": str, "layer": int, "pos": int, "text": str, "word": str}
_OF_GRAPH: dict[str, type] = {"pos": int, "n_layers": int, "prob": float}


def write_flow(path: str | Path, graph: "nx.DiGraph[str]", answer: str) -> None:
    """Write a flow's graph; the file appears whole or not at all."""
    data = nx.node_link_data(graph, edges="edges")
    write_text(path, json.dumps({"schema": _SCHEMA, "answer": answer, "graph": data}))


def read_flow(path: str | Path) -> "tuple[nx.DiGraph[str], str]":
    """Return the graph and the answer of a file written by :func:`write_flow`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is malformed, naming the field.
    """
    try:
        found: Any = json.loads(read_utf8(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not a file of a flow: {error}") from error
    if not isinstance(found, dict) or found.get("schema") != _SCHEMA:
        raise ValueError(f"{path}: field 'schema' is missing or another, expected {_SCHEMA!r}")
    if not isinstance(found.get("answer"), str):
        raise ValueError(f"{path}: field 'answer' must be a string")
    try:
        graph = _graph(path, found["graph"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: field 'graph' is malformed ({type(error).__name__}: {error})") from error
    if "answer" not in graph or any(not data for _, data in graph.nodes(data=True)):
        raise ValueError(f"{path}: field 'graph' lacks the node 'answer', or a node that an edge names")
    return graph, found["answer"]


def _graph(path: str | Path, found: Mapping[str, Any]) -> "nx.DiGraph[str]":
    known = _OF_GRAPH if found["graph"] else {}  # a graph that trace did not make has no fields of its own
    graph: nx.DiGraph[str] = nx.DiGraph(**_fields(path, found["graph"], known, "the graph"))
    for node in found["nodes"]:
        graph.add_node(node["id"], **_fields(path, node, _OF_NODE, f"node {node['id']!r}"))
    for edge in found["edges"]:
        weight = edge["weight"]
        if not isinstance(weight, (int, float)) or not isfinite(weight):
            raise ValueError(f"{path}: field 'weight' of an edge from {edge['source']!r} is {weight!r}")
        graph.add_edge(edge["source"], edge["target"], weight=weight)
    return graph


def _fields(path: str | Path, found: Mapping[str, Any], known: Mapping[str, type], owner: str) -> dict[str, Any]:
    """Return the fields of a node or of the graph, tokens among them.

    Raises:
        ValueError: If one is of another type.
        KeyError: If one is missing.
    """
    fields = {name: found[name] for name in known}
    for name, value in fields.items():
        if type(value) is not known[name]:
            raise ValueError(f"{path}: field {name!r} of {owner} is {value!r}")
    if not known:
        return fields
    if not all(isinstance(token, str) for token in found["tokens"]):
        raise ValueError(f"{path}: field 'tokens' of {owner} must hold strings")
    return {**fields, "tokens": tuple(found["tokens"])}
