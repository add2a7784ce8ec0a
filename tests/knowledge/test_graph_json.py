"""A flow in circuit-tracer's schema: its fields and types, as that project's front end declares them."""

import json

import networkx as nx
import pytest

import tl_neuron_attr as tna
from tl_neuron_attr import demo
from tl_neuron_attr.knowledge.flow import ANSWER, Flow
from tl_neuron_attr.knowledge.graph_json import HEAD_FEATURES, graph_json

FIELDS = {
    "node_id": str, "feature": int, "layer": str, "ctx_idx": int, "feature_type": str, "token_prob": float,
    "is_target_logit": bool, "run_idx": int, "reverse_ctx_idx": int, "jsNodeId": str, "clerp": str,
}  # fmt: skip
PROMPT = "Tim Duncan plays the sport of"


@pytest.fixture(scope="module")
def flow():
    _, cache = demo.load().run_with_cache(PROMPT)
    return tna.trace(cache, " basketball")


@pytest.fixture(scope="module")
def written(flow, tmp_path_factory):
    path = flow.to_graph_json(tmp_path_factory.mktemp("graph") / "duncan.json")
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_field_is_there_with_its_type(written):
    assert set(written) == {"metadata", "qParams", "nodes", "links"}
    assert written["metadata"]["slug"] == "duncan" and written["metadata"]["schema_version"] == 1
    assert [token.strip() for token in written["metadata"]["prompt_tokens"]] == ["<bos>", *PROMPT.split()]
    assert set(written["qParams"]) == {"pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos"}
    for node in written["nodes"]:
        assert {name: type(node[name]) for name in FIELDS} == FIELDS
        assert node["node_id"] == f"{node['layer']}_{node['feature']}_{node['ctx_idx']}"


def test_nodes_and_links_are_those_of_the_flow(flow, written):
    ids = [node["node_id"] for node in written["nodes"]]
    assert len(set(ids)) == len(ids) == len(flow.graph)
    assert len(written["links"]) == flow.graph.number_of_edges()
    assert {link["source"] for link in written["links"]} | {link["target"] for link in written["links"]} <= {*ids}
    weights = sorted(weight for _, _, weight in flow.graph.edges(data="weight"))
    assert sorted(link["weight"] for link in written["links"]) == pytest.approx(weights)


def test_kinds_stand_where_the_front_end_draws_them(flow, written):
    by_shown = {node["clerp"].split(" ")[0]: node for node in written["nodes"]}
    head = next(name for name, kind in flow.graph.nodes(data="kind") if kind == "head")
    assert by_shown[head]["layer"] == head[1:].split("H")[0]
    assert by_shown[head]["feature"] == HEAD_FEATURES + int(head.split("H")[1])
    query = next(name for name, kind in flow.graph.nodes(data="kind") if kind == "query")
    assert by_shown[query]["ctx_idx"] == int(query.split("@")[1])
    (logit,) = (node for node in written["nodes"] if node["feature_type"] == "logit")
    assert logit["is_target_logit"] and logit["layer"] == str(demo.load().cfg.n_layers + 1)
    prob = float(demo.load()(PROMPT)[0, -1].softmax(-1)[demo.load().to_single_token(" basketball")])
    assert logit["token_prob"] == pytest.approx(prob, rel=1e-4) and "basketball" in logit["clerp"]
    assert {node["layer"] for node in written["nodes"] if node["feature_type"] == "embedding"} == {"E"}


def test_a_neuron_that_is_value_and_query_neuron_is_one_node_with_the_links_of_both():
    graph = nx.DiGraph(tokens=("a", "b"), pos=1, n_layers=4, prob=0.5)
    graph.add_node(ANSWER, kind="answer", layer=4, pos=-1, text="", word="")
    graph.add_node("L1N7", kind="value", layer=1, pos=-1, text="", word="")
    graph.add_node("L2N3", kind="value", layer=2, pos=-1, text="", word="")
    graph.add_node("@0", kind="position", layer=-1, pos=0, text="a", word="")
    for pos in (0, 1):
        graph.add_node(f"L1N7@{pos}", kind="query", layer=1, pos=pos, text="", word="")
    weights = [("L1N7", ANSWER, 1.0), ("L2N3", ANSWER, 2.0), ("L1N7@1", "L2N3", 0.5), ("L1N7@0", "L2N3", 0.25)]
    graph.add_weighted_edges_from([*weights, ("@0", "L1N7", 0.125), ("@0", "L1N7@1", 4.0)])
    written = graph_json(graph, " x", "slug")
    assert [node["node_id"] for node in written["nodes"]] == ["5_0_1", "1_7_1", "2_3_1", "E_0_0", "1_7_0"]
    assert [node["clerp"] for node in written["nodes"]][1] == "L1N7"
    assert {(link["source"], link["target"]): link["weight"] for link in written["links"]} == {
        ("1_7_1", "5_0_1"): 1.0, ("2_3_1", "5_0_1"): 2.0, ("1_7_1", "2_3_1"): 0.5, ("1_7_0", "2_3_1"): 0.25,
        ("E_0_0", "1_7_1"): 4.125,
    }  # fmt: skip


def test_a_graph_from_elsewhere_is_refused_and_nothing_is_written(tmp_path):
    graph = nx.DiGraph()
    graph.add_node(ANSWER)
    with pytest.raises(ValueError, match=r"graph lacks n_layers, pos, prob, tokens: write a flow that tna\.trace made"):
        Flow(graph, " x").to_graph_json(tmp_path / "x.json")
    assert not list(tmp_path.iterdir())
