"""The flow picture, drawn and used in a real browser."""

import json
import re

import networkx as nx
import pytest

import tl_neuron_attr as tna
from tests.vis.browser import needs_browser, opened
from tl_neuron_attr import demo, vis
from tl_neuron_attr.knowledge.flow import ANSWER

EDGES = "return [...document.querySelectorAll('.tna-flow .edge')].map(e => [e.dataset.from, e.dataset.to])"
NODES = "return [...document.querySelectorAll('.tna-flow .node')].map(n => n.dataset.name)"
BRIGHT = "return [...document.querySelectorAll('.tna-flow .node:not(.dim)')].map(n => n.dataset.name)"
DRAG = "const s = document.querySelector('input.{}'); s.value = {}; s.dispatchEvent(new Event('input'))"


@pytest.fixture(scope="module")
def flow():
    _, cache = demo.load().run_with_cache("Tim Duncan plays the sport of")
    return tna.trace(cache, " basketball")


def drawn(view):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', str(view.body), re.DOTALL)[1])


def test_every_node_and_edge_is_in_the_picture(flow):
    graph = drawn(vis.flow(flow))
    assert {node["name"] for node in graph["nodes"]} == set(flow.graph)
    weights = {(edge["from"], edge["to"]): edge["weight"] for edge in graph["edges"]}
    assert weights == {(a, b): pytest.approx(w, abs=1e-5) for a, b, w in flow.graph.edges(data="weight")}


def test_nodes_stand_at_their_token_and_layer_with_a_word(flow):
    last = flow.graph.graph["pos"]
    for node in drawn(vis.flow(flow))["nodes"]:
        data = flow.graph.nodes[node["name"]]
        assert node["at"] == (data["pos"] if data["kind"] in ("position", "query") else last)
        expected = {"position": 0, "head": 2 * data["layer"] + 1, "answer": 2 * flow.graph.graph["n_layers"] + 2}
        assert node["level"] == expected.get(data["kind"], 2 * data["layer"] + 2)
        if data["kind"] in ("value", "query"):
            assert node["word"] == data["word"].strip() and data["tokens"][:1]
        if data["kind"] == "head":
            assert node["word"] in [token.strip() for token in flow.graph.graph["tokens"]]


def test_shares_are_those_of_pruning(flow):
    """What pruning to a share keeps is shown at that share."""
    edges = drawn(vis.flow(flow))["edges"]
    for share in (0.3, 0.8):
        shown = {(edge["from"], edge["to"]) for edge in edges if edge["share"] < share}
        assert set(flow.prune(share).graph.edges) <= shown


def test_a_share_out_of_range_is_refused(flow):
    with pytest.raises(ValueError, match="share must be above 0 and at most 1, got 0"):
        vis.flow(flow, share=0.0)


@needs_browser
def test_the_thresholds_and_the_paths(flow, tmp_path):
    path = vis.flow(flow, share=0.5).save(tmp_path / "flow.html")
    with opened(path) as page:
        for share in (0.5, 0.9, 1.0):
            page.run(DRAG.format("share", share))
            expected = flow.prune(share).graph
            assert {tuple(edge) for edge in page.run(EDGES)} == set(expected.edges)
            assert set(page.run(NODES)) == set(expected), "what leads nowhere leaves"
        assert page.run("return document.querySelector('output').textContent") == "100 % of the flow"
        head = next(n for n, kind in flow.graph.nodes(data="kind") if kind == "head")
        event = (
            "document.querySelector('[data-name={}] rect').dispatchEvent(new Event('pointerover', {{bubbles: true}}))"
        )
        page.run(event.format(head))
        assert set(page.run(BRIGHT)) == nx.ancestors(flow.graph, head) | nx.descendants(flow.graph, head) | {head}
        page.run("document.querySelector('.controls').dispatchEvent(new Event('pointerover', {bubbles: true}))")
        assert set(page.run(BRIGHT)) == set(flow.graph)
        page.run(DRAG.format("least", 0.5))
        assert 1 < len(page.run(NODES)) < len(flow.graph) and ANSWER in page.run(NODES)
        assert page.errors() == [] and page.requests() == []


@needs_browser
def test_a_pinned_node_opens_its_panel_and_stands_in_the_address(flow, tmp_path):
    path = vis.flow(flow, share=1.0).save(tmp_path / "flow.html")
    head = max(
        (n for n, kind in flow.graph.nodes(data="kind") if kind == "head"),
        key=lambda n: flow.graph.out_degree(n, weight="weight"),
    )
    panel = "return document.querySelector('.panel').innerText"
    with opened(path) as page:
        assert page.run("return document.querySelector('.panel').hidden")
        page.run(f"const n = document.querySelector('[data-name={head}]'); n.focus(); "
                 "n.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}))")  # fmt: skip
        assert head in page.run(panel)
        for source, _, weight in sorted(flow.graph.in_edges(head, data="weight"), key=lambda e: -abs(e[2]))[:5]:
            assert source in page.run(panel) and f"{abs(weight):.3g}" in page.run(panel)
        assert page.run("return location.hash") == f"#pin={head}"
        page.run("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape', bubbles: true}))")
        assert page.run("return document.querySelector('.panel').hidden") and page.run("return location.hash") == ""
        page.driver.get(f"{path.resolve().as_uri()}?again#pin={head}&share=0.4")
        page.wait_for(f"return document.querySelector('.node.pinned')?.dataset.name == '{head}'")
        assert page.run("return document.querySelector('output').textContent") == "40 % of the flow"


@needs_browser
def test_several_flows_stand_on_one_page(flow, tmp_path):
    cells = vis.flow(flow)._repr_html_() + vis.flow(flow.prune(0.5))._repr_html_()
    (tmp_path / "two.html").write_text(f"<!doctype html><meta charset=utf-8>{cells}", encoding="utf-8")
    with opened(tmp_path / "two.html") as page:
        assert page.run(
            "return [...document.querySelectorAll('.tna-flow')].map(f => f.querySelectorAll('svg').length)"
        ) == [1, 1]
        assert page.errors() == []
