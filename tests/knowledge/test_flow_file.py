"""A flow comes back from its file as it was, and a malformed file is refused by field."""

import json

import pytest

import tl_neuron_attr as tna
from tl_neuron_attr import demo


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    _, cache = demo.load().run_with_cache("3 + 5 =")
    path = tmp_path_factory.mktemp("flow") / "flow.json"
    flow = tna.trace(cache, k=5, heads=3, queries=3)
    flow.save(path)
    return flow, path


def test_a_file_gives_back_the_graph(saved):
    flow, path = saved
    again = tna.Flow.load(path)
    assert str(again) == str(flow) and again.to_frame().equals(flow.to_frame())
    assert dict(again.graph.nodes(data=True)) == dict(flow.graph.nodes(data=True))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda f: f.pop("schema"), "field 'schema'"),
        (lambda f: f.update(answer=8), "field 'answer' must be a string"),
        (lambda f: f["graph"].pop("nodes"), "field 'graph' is malformed"),
        (lambda f: f["graph"]["nodes"][0].update(layer="3"), "field 'layer' of node"),
        (lambda f: f["graph"]["nodes"][0].update(tokens=[3]), "field 'tokens' of node"),
        (lambda f: f["graph"]["edges"][0].update(weight=float("nan")), "field 'weight' of an edge from"),
        (lambda f: f["graph"]["graph"].update(prob="1"), "field 'prob' of the graph"),
        (lambda f: f["graph"]["edges"][0].update(source="L9H9"), "a node that an edge names"),
    ],
)
def test_a_malformed_file_is_refused_by_field(saved, tmp_path, change, message):
    found = json.loads(saved[1].read_text())
    change(found)
    (tmp_path / "flow.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match=message):
        tna.Flow.load(tmp_path / "flow.json")
