"""Columns of nodes: what stands where, which lines are shown first, and lines inside a column."""

import re

import networkx as nx
import pytest

from tl_neuron_attr.vis.layered import layered

HOSTILE = "</svg><script>alert(1)</script>"


def graph(edges, columns):
    made = nx.DiGraph()
    for name, column in columns.items():
        made.add_node(name, column=column, kind="value", label=name, title=name)
    for a, b, data in edges:
        made.add_edge(a, b, **{"unit": "nats", **data})
    return made


def drawn(edges, columns, headings=("from", "to"), share=0.5):
    return layered(graph(edges, columns), headings, share=share, name="a picture")


def lines(body):
    found = re.findall(r'd="([^"]+)" stroke-width="(\S+)" data-from="(\S+)" data-to="(\S+)" data-share="(\S+)"', body)
    return {(a, b): (path, float(width), float(share)) for path, width, a, b, share in found}


def test_lines_are_as_strong_as_they_say_or_as_they_weigh():
    edges = [("a", "x", {"weight": -3.0}), ("b", "x", {"weight": 100.0, "strength": 1.0, "unit": "apples"})]
    found = lines(drawn(edges, {"a": 0, "b": 0, "x": 1}))
    assert found["a", "x"][1] == pytest.approx(3 * found["b", "x"][1])
    assert found["a", "x"][2] == 0 and found["b", "x"][2] == pytest.approx(0.75)
    body = drawn(edges, {"a": 0, "b": 0, "x": 1})
    assert "b → x: +100.0000 apples" in body and "a → x: -3.0000 nats" in body
    assert re.search(r'<path class="edge down"[^>]*data-from="a"', body)


def test_nodes_stand_in_their_columns_in_order():
    body = drawn([("a", "x", {"weight": 1.0})], {"a": 0, "b": 0, "x": 1})
    at = {
        name: (float(x), float(y))
        for name, x, y in re.findall(r'data-name="(\w)" transform="translate\((\S+) (\S+)\)', body)
    }
    assert at["a"][0] == at["b"][0] == 0 < at["x"][0] and at["a"][1] < at["b"][1]
    assert body.index(">from<") < body.index(">to<")


def test_a_line_inside_a_column_swings_out_to_the_right_and_back():
    found = lines(drawn([("a", "b", {"weight": 1.0}), ("b", "x", {"weight": 1.0})], {"a": 0, "b": 0, "x": 1}))
    numbers = [float(n) for n in re.findall(r"[\d.]+", found["a", "b"][0])]
    xs = numbers[::2]
    assert xs[0] == xs[-1] < xs[1], "it starts and ends at the boxes' right edge"
    assert xs[1] < float(re.findall(r"[\d.]+", found["b", "x"][0])[-2]), "and stays before the next column"


def test_hostile_names_are_text():
    made = graph([("a", "x", {"weight": 1.0, "unit": HOSTILE})], {"a": 0, "x": 1})
    made.nodes["a"].update(label=HOSTILE, title=HOSTILE, kind=HOSTILE)
    body = layered(made, [HOSTILE, "to"], share=0.5, name=HOSTILE)
    assert "<script>alert" not in body and body.count("</svg>") == 1


def test_a_share_out_of_range_is_refused():
    for share in (0.0, 1.1):
        with pytest.raises(ValueError, match="share must be above 0 and at most 1, got"):
            drawn([("a", "x", {"weight": 1.0})], {"a": 0, "x": 1}, share=share)
