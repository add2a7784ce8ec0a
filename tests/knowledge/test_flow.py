"""The flow of a prediction: every weight against the functions it is made of, and nothing lost on the way."""

from dataclasses import replace

import networkx as nx
import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.knowledge.flow import ANSWER

FIELDS = ("site", "layer", "head", "source", "index", "coefficient", "score")
EVERYTHING = {"k": 40, "heads": 12, "queries": 30}


def cached(name):
    return architectures.build(name).run_with_cache(architectures.prompts(1))[1]


@pytest.fixture(scope="module")
def cache():
    return cached("llama")


@pytest.fixture(scope="module")
def flow(cache):
    return tna.trace(cache, 5, **EVERYTHING)


def picked(value, wanted):
    return tna.Neurons(**{f: getattr(value, f)[wanted] for f in FIELDS})


def weight(flow, source, sink):
    return flow.graph.edges[source, sink]["weight"] if flow.graph.has_edge(source, sink) else 0.0


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "neox_parallel", "olmo2"])
def test_what_enters_a_node_leaves_it(name):
    """All twelve heads are shown: heads and query neurons pass on what they take in, the answer gets all scores."""
    cache = cached(name)
    graph = tna.trace(cache, 5, **EVERYTHING).graph
    for node, kind in graph.nodes(data="kind"):
        if kind in ("head", "query"):
            into, out = (graph.in_degree(node, weight="weight"), graph.out_degree(node, weight="weight"))
            assert into == pytest.approx(out, abs=1e-6), node
    total = float(tna.value_neurons(cache, 5, 40).score.sum())
    assert graph.in_degree(ANSWER, weight="weight") == pytest.approx(total, abs=1e-6)


def test_edges_to_the_answer_are_scores(cache, flow):
    value = tna.value_neurons(cache, 5, 40)[0]
    for label, score in zip(value.labels, value.score.tolist(), strict=True):
        if "H" not in label:
            assert weight(flow, label, ANSWER) == pytest.approx(score)
    for layer in range(architectures.LAYERS):
        for head in range(architectures.HEADS):
            mine = (value.layer == layer) & (value.head == head)
            assert weight(flow, f"L{layer}H{head}", ANSWER) == pytest.approx(float(value.score[mine].sum()))


def test_heads_pass_to_a_value_neuron_what_its_query_neurons_say(cache, flow):
    value = tna.value_neurons(cache, 5, 40)[0]
    for i in (value.site == 1).nonzero()[:5, 0].tolist():
        query = tna.query_neurons(cache, picked(value, [i]).unsqueeze(), 100_000, sites=("attn",))[0]
        for layer in range(architectures.LAYERS):
            for head in range(architectures.HEADS):
                expected = query.score[(query.layer == layer) & (query.head == head)].sum()
                assert weight(flow, f"L{layer}H{head}", value.labels[i]) == pytest.approx(float(expected), abs=1e-6)


def test_query_neurons_at_pass_to_a_head_what_query_neurons_say(cache, flow):
    value = tna.value_neurons(cache, 5, 40)[0]
    shallow = [(n, d) for n, d in flow.graph.nodes(data=True) if d["kind"] == "query"]
    assert shallow
    for name, data in shallow[:6]:
        for head in (h for h in flow.graph.successors(name)):
            layer, index = (int(x) for x in head[1:].split("H"))
            mine = (value.layer == layer) & (value.head == index) & (value.source == data["pos"])
            query = tna.query_neurons(cache, picked(value, mine).unsqueeze(), 100_000, sites=("mlp",))[0]
            expected = dict(zip(query.labels, query.score.tolist(), strict=True))[name.split("@")[0]]
            assert weight(flow, name, head) == pytest.approx(expected, abs=1e-6)


def test_positions_carry_their_tokens_and_neurons_what_they_promote(cache, flow):
    tokens = [f"w{i}" for i in architectures.prompts(1)[0].tolist()]
    for node, data in flow.graph.nodes(data=True):
        if data["kind"] in ("position", "query"):
            assert data["text"] == tokens[data["pos"]] and (
                node == f"@{data['pos']}" or node.endswith(f"@{data['pos']}")
            )
        else:
            assert data["pos"] == -1
        assert bool(data["tokens"]) == (data["kind"] in ("query", "value"))


def test_pruning_keeps_the_strongest_edges_that_lead_to_the_answer(flow):
    weights = sorted((abs(w) for *_, w in flow.graph.edges(data="weight")), reverse=True)
    for share in (0.2, 0.6, 1.0):
        pruned = flow.prune(share)
        count, held = 0, 0.0
        while held < share * sum(weights) and count < len(weights):
            held, count = held + weights[count], count + 1
        least = min(abs(w) for *_, w in pruned.graph.edges(data="weight"))
        assert least >= weights[count - 1]
        assert all(nx.has_path(pruned.graph, node, ANSWER) for node in pruned.graph)
    assert set(flow.prune(1.0).graph.edges) == set(flow.graph.edges)
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match="share must be above 0 and at most 1"):
            flow.prune(share)


def test_it_prints_and_becomes_a_frame(flow):
    frame = flow.to_frame()
    assert len(frame) == flow.graph.number_of_edges() and frame["weight"].abs().is_monotonic_decreasing
    assert "w5" in str(flow) and f"of {len(frame)} edges, in nats" in str(flow)


def test_without_neurons_of_a_site_there_is_still_a_flow(cache):
    value = tna.value_neurons(cache, 5, 240 + 3 * 4 * 7 * 8)
    for k in (1, 2, 3):
        graph = tna.trace(cache, 5, k=k, queries=0, heads=3).graph
        assert ANSWER in graph and graph.number_of_edges() >= 1
    assert len(value) > 40


def test_several_prompts_are_refused():
    _, cache = architectures.run("llama")
    with pytest.raises(ValueError, match="cache holds 2 prompts; a flow is of one"):
        tna.trace(cache, 5)


def test_the_flow_of_a_fact_leads_from_its_subject_and_relation():
    """On the bundled model the strongest positions of a fact are words of the subject and of the relation."""
    _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
    graph = tna.trace(cache, " basketball").graph
    positions = [(n, graph.out_degree(n, weight="weight")) for n, k in graph.nodes(data="kind") if k == "position"]
    best = sorted(positions, key=lambda at: -at[1])[:3]
    assert {graph.nodes[n]["text"] for n, _ in best} <= {"Tim", "Duncan", "plays", "sport"}


def test_the_flow_of_an_answer_is_that_of_its_tokens_added_up():
    model = architectures.build("llama")
    q = tna.answer(model, architectures.prompts(1, 4)[0], torch.tensor([5, 17, 5]))
    value = tna.value_neurons(q, k=8)
    expected: dict[tuple[str, str], float] = {}
    for i in range(3):
        one = value.per_token[i]
        flow = tna.trace(q.stream.cache, int(q.target[i]), value=one, pos=3 + i, heads=100, queries=0)
        for a, b, weight in flow.graph.edges(data="weight"):
            expected[a, b] = expected.get((a, b), 0.0) + weight
    flow = tna.trace(q, value=value, heads=100, queries=0)
    assert flow.answer == "w5 w17 w5"
    found = {(a, b): weight for a, b, weight in flow.graph.edges(data="weight")}
    assert found == pytest.approx({edge: w for edge, w in expected.items() if edge in found}, abs=1e-8)
    assert {edge for edge, w in expected.items() if abs(w) > 1e-8} <= set(found)
    with pytest.raises(ValueError, match="a flow is of one run"):
        tna.trace(tna.answer(model, "w1", "w5 w6", contrast="w7 w8"))


def test_the_heads_shown_are_those_through_which_most_passes_of_all_value_neurons_together(cache):
    value = tna.value_neurons(cache, 5, 40)[0]
    passed = torch.zeros(architectures.LAYERS, architectures.HEADS, 7, dtype=torch.float64)
    for i in range(40):
        if value.site[i] == 1:
            query = tna.query_neurons(cache, picked(value, [i]).unsqueeze(), 100_000, sites=("attn",))[0]
            passed.index_put_((query.layer, query.head, query.source), query.score.double(), accumulate=True)
        else:
            passed[value.layer[i], value.head[i], value.source[i]] += value.score[i]
    size = passed.abs().sum(-1).flatten()
    for n in range(1, 12):
        graph = tna.trace(cache, 5, k=40, heads=n, queries=0).graph
        shown = {node for node, kind in graph.nodes(data="kind") if kind == "head"}
        assert shown == {f"L{i // 4}H{i % 4}" for i in size.topk(n).indices.tolist()}


def test_a_weight_that_is_no_number_is_not_written(flow, tmp_path):
    broken = replace(flow, graph=flow.graph.copy())
    next(iter(broken.graph.edges(data=True)))[2]["weight"] = float("nan")
    with pytest.raises(ValueError):
        broken.to_graph_json(tmp_path / "graph.json")
    assert not list(tmp_path.iterdir())
