"""What passes through heads, against sums over the query neurons that make it."""

import json

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.knowledge.flow_edges import QueryNeuronAt, best_heads, direct, query_neurons_at, through_heads
from tl_neuron_attr.knowledge.query_neurons import weighted_subkeys

LAYERS, HEADS = architectures.LAYERS, architectures.HEADS
FIELDS = ("site", "layer", "head", "source", "index", "coefficient", "score")
ALL = 100_000
"""More neurons than the model has."""


@pytest.fixture(scope="module")
def cache():
    return architectures.build("llama").run_with_cache(architectures.prompts(1))[1]


@pytest.fixture(scope="module")
def value(cache):
    return tna.value_neurons(cache, 5, 40)[0]


@pytest.fixture(scope="module")
def followed(cache, value):
    return weighted_subkeys(cache, value, sites=("attn", "mlp"))


def alone(value, wanted):
    return tna.Neurons(**{name: getattr(value, name)[wanted] for name in FIELDS}).unsqueeze()


def test_a_heads_direct_scores_are_those_of_its_value_neurons(value, followed):
    found = direct(followed[0], value)
    for layer in range(LAYERS):
        for head in range(HEADS):
            for source in range(found.shape[2]):
                mine = (value.layer == layer) & (value.head == head) & (value.source == source)
                assert float(found[layer, head, source]) == pytest.approx(float(value.score[mine].sum()))


def test_what_passes_through_a_head_from_a_source_is_said_by_query_neurons(cache, value, followed):
    found = through_heads(*followed, value)
    deep = (value.site == 1).nonzero()[:, 0].tolist()
    assert len(found) == len(deep) > 0
    for row, i in list(zip(found, deep, strict=True))[:4]:
        query = tna.query_neurons(cache, alone(value, [i]), ALL, sites=("attn",))[0]
        expected = torch.zeros_like(row).index_put(
            (query.layer, query.head, query.source), query.score.to(row), accumulate=True
        )
        torch.testing.assert_close(row, expected, atol=1e-9, rtol=0)


def test_the_best_heads_pass_most_whatever_the_sign_and_none_that_passes_nothing():
    scores = torch.zeros(2, 3, 2)
    scores[0, 1] = torch.tensor([1.0, -3.0])
    scores[1, 2] = torch.tensor([2.0, 1.0])
    scores[1, 0] = torch.tensor([-0.5, 0.0])
    assert best_heads(scores, 2) == [(0, 1), (1, 2)]
    assert best_heads(scores, 10) == [(0, 1), (1, 2), (1, 0)]


def test_query_neurons_at_are_the_best_of_all_query_neurons_of_the_heads(cache, value, followed):
    heads = best_heads(direct(followed[0], value), 4)
    passed: dict[str, float] = {}
    for layer, head in heads:
        for source in range(7):
            mine = (value.layer == layer) & (value.head == head) & (value.source == source)
            if bool(mine.any()):
                query = tna.query_neurons(cache, alone(value, mine), ALL, sites=("mlp",))[0]
                for label, score in zip(query.labels, query.score.tolist(), strict=True):
                    passed[f"{label}@{source}"] = passed.get(f"{label}@{source}", 0) + score
    found = query_neurons_at(*followed, value, heads, 10)
    assert [neuron.name for neuron in found] == sorted(passed, key=lambda name: -passed[name])[:10]
    for neuron in found:
        assert sum(neuron.to.values()) == pytest.approx(passed[neuron.name], abs=1e-9)
        coefficient = cache[f"blocks.{neuron.layer}.mlp.hook_post"][0, neuron.pos, neuron.index]
        assert neuron.coefficient == pytest.approx(float(coefficient))


def test_without_heads_or_room_there_are_no_query_neurons_at(value, followed):
    assert query_neurons_at(*followed, value, [], 5) == []
    assert query_neurons_at(*followed, value, [(LAYERS - 1, 0)], 0) == []


def test_a_query_neuron_is_named_with_its_position():
    assert QueryNeuronAt("L3N14", 3, 14, 5, 1.0, {}).name == "L3N14@5"


def test_query_neurons_of_experts_are_named_by_expert():
    _, cache = architectures.run("qwen2_moe", batch=1)
    nodes = tna.trace(cache, 5, k=40, queries=40).graph.nodes(data=True)
    names = [name for name, node in nodes if node["kind"] == "query"]
    dense = [name for name in names if "E" not in name]
    assert len(dense) < len(names) and all(name.startswith("L1N") for name in dense)  # layer 1 is dense


def test_neurons_of_experts_have_numbers_of_their_own_in_the_json(tmp_path):
    _, cache = architectures.run("qwen2_moe", batch=1)
    flow = tna.trace(cache, 5, value=tna.value_neurons(cache, 5, 30, sites=("mlp",)))
    written = json.loads(flow.to_graph_json(tmp_path / "flow.json").read_text())["nodes"]
    of_value = [own for own, node in zip(written, flow.graph.nodes.values(), strict=True) if node["kind"] == "value"]
    assert len({node["node_id"] for node in of_value}) == len(of_value) == 30
