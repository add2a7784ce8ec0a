"""The flow picture, drawn and used in a real browser."""

import re

import networkx as nx
import pytest

import tl_neuron_attr as tna
from tests.vis.browser import needs_browser, opened
from tl_neuron_attr import demo, vis


@pytest.fixture(scope="module")
def flow():
    _, cache = demo.load().run_with_cache("Tim Duncan plays the sport of")
    return tna.trace(cache, " basketball")


def test_every_node_and_edge_is_drawn_and_says_its_value(flow):
    body = vis.flow(flow).body
    assert body.count('<g class="node') == len(flow.graph)
    assert body.count('<path class="edge') == flow.graph.number_of_edges()
    for a, b, weight in flow.graph.edges(data="weight"):
        assert f"{a} → {b}: {weight:+.4f} nats" in body


def test_shares_are_those_of_pruning(flow):
    """What pruning to a share keeps is shown at that share."""
    drawn = re.findall(r'data-from="(\S+)" data-to="(\S+)" data-share="(\S+)"', vis.flow(flow).body)
    for share in (0.3, 0.8):
        shown = {(a, b) for a, b, s in drawn if float(s) < share}
        assert set(flow.prune(share).graph.edges) <= shown


def test_a_share_out_of_range_is_refused(flow):
    with pytest.raises(ValueError, match="share must be above 0 and at most 1, got 0"):
        vis.flow(flow, share=0.0)


def test_several_flows_stand_on_one_page(flow, tmp_path):
    body = vis.flow(flow)._repr_html_() + vis.flow(flow.prune(0.5))._repr_html_()
    assert body.count("tna-layered:not([data-ready])") == 2


@needs_browser
def test_the_threshold_and_the_paths(flow, tmp_path):
    path = vis.flow(flow, share=0.5).save(tmp_path / "flow.html")
    shown = "return [...document.querySelectorAll('.edge')].filter(e => e.getAttribute('display') != 'none').length"
    dim = "return document.querySelectorAll('.node:not(.dim)').length"
    drag = "const s = document.querySelector('input'); s.value = {}; s.dispatchEvent(new Event('input'))"
    with opened(path) as page:
        assert page.run(shown) == flow.prune(0.5).graph.number_of_edges()
        page.run(drag.format(0.9))
        assert page.run(shown) == flow.prune(0.9).graph.number_of_edges()
        assert page.run("return document.querySelector('output').textContent") == "90 %"
        page.run(drag.format(1))
        assert page.run(shown) == flow.graph.number_of_edges()
        head = next(n for n, kind in flow.graph.nodes(data="kind") if kind == "head")
        page.run(f"document.querySelector('[data-name={head}]').dispatchEvent(new Event('pointerenter'))")
        assert page.run(dim) == len(nx.ancestors(flow.graph, head) | nx.descendants(flow.graph, head) | {head})
        page.run(f"document.querySelector('[data-name={head}]').dispatchEvent(new Event('pointerleave'))")
        assert page.run(dim) == len(flow.graph)
        assert page.errors() == [] and page.requests() == []
