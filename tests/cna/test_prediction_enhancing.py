"""The graph among deep neurons against norms and keys applied by hand; root masking against edited weights."""

from importlib import import_module

import networkx as nx
import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures, oracle
from tests.cna.test_feature_predicting import HEAD, best, changes, said
from tl_neuron_attr import cna

TOKENS = architectures.prompts(1)


@torch.no_grad()
@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("name", architectures.DENSE)
def test_an_edge_is_the_part_of_a_pre_activation_that_a_neuron_wrote(name, compat):
    model = architectures.build(name, compat=compat)
    _, cache = model.run_with_cache(TOKENS)
    neurons = tna.value_neurons(cache, 5, 12, sites=("mlp",), pos=4)[0]
    found = cna.prediction_enhancing(cache, neurons, pos=4)
    at = list(zip(neurons.layer.tolist(), neurons.index.tolist(), strict=True))
    assert len({layer for layer, _ in at}) > 1, "the neurons are of one layer: nothing is tested"
    written = {layer: oracle.writes(cache, layer, "mlp", 0, 4) for layer in range(3)}
    for i, (lower, a) in enumerate(at):
        for j, (upper, b) in enumerate(at):
            keys = oracle.keys(cache, upper, "mlp", b)
            assert len(keys) == len(found.inner)
            read = oracle.norm_read(cache, upper, "mlp", 0, 4, written[lower][a])
            for inner, key in zip(found.inner.values(), keys, strict=True):
                expected = float(read @ key) if lower < upper else 0.0
                assert float(inner[i, j]) == pytest.approx(expected, abs=1e-4 if compat else 1e-6, rel=1e-4)


def enhanced(name="llama", **options):
    model = architectures.build(name)
    _, cache = model.run_with_cache(TOKENS)
    return cna.prediction_enhancing(cache, tna.value_neurons(cache, 5, 12, sites=("mlp",), **options)[0])


def test_gate_and_up_are_apart_and_summed():
    found = enhanced()
    assert list(found.inner) == ["gate", "up"] and list(enhanced("gpt2").inner) == ["key"]
    torch.testing.assert_close(found.total, found.inner["gate"] + found.inner["up"])
    frame = found.to_frame()
    assert (frame["gate"] + frame["up"]).tolist() == pytest.approx(frame["sum"].tolist())
    assert frame["sum"].abs().is_monotonic_decreasing


def test_the_graph_is_acyclic_and_its_root_is_of_the_lowest_layer():
    found = enhanced()
    graph, neurons = found.graph(), found.neurons
    assert nx.is_directed_acyclic_graph(graph)
    weights = {(a, b): w for a, b, w in graph.edges(data="weight")}
    expected = {(r["from"], r["to"]): r["sum"] for r in found.to_frame().to_dict("records")}
    assert weights == pytest.approx(expected)
    lowest = neurons.layer == neurons.layer.min()
    assert neurons.score[found.root] == neurons.score[lowest].max() and bool(lowest[found.root])
    assert f"root {neurons.labels[found.root]}" in str(found)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "phi"])
def test_root_masking_is_what_editing_the_weights_gives(name):
    model = architectures.build(name)
    cases = said(model)
    found = cna.root_masking(model, cases, HEAD, ks=[4, 11], batch_size=2, progress=False)
    for row in found.frame.to_dict("records"):
        lost = []
        for case in cases:
            change, before, _ = changes(model, case, [HEAD])
            top = best(change, row["k"])
            low = min(layer for _, layer, _ in top)
            root = next(n for n in top if n[1] == low)  # they are sorted by change
            _, _, after = changes(model, case, [root])
            pairs = [(float(before[la, i]), float(after[la, i])) for s, la, i in top if (s, la, i) != root]
            lost.append(sum(b - a if b > 0 else a - b for b, a in pairs) / sum(abs(b) for b, _ in pairs))
        assert row["root"] == pytest.approx(sum(lost) / len(lost), abs=1e-5)
    assert found.cases == 6 and "top 11" in str(found)


def test_the_control_is_another_neuron_of_the_roots_layer(monkeypatch):
    model = architectures.build("gpt2")
    zeroed = []

    def spy(model, parts):
        zeroed.append(parts)
        return real(model, parts)

    from tl_neuron_attr.cna.prediction_enhancing import zeroing as real

    monkeypatch.setattr(import_module("tl_neuron_attr.cna.prediction_enhancing"), "zeroing", spy)
    cna.root_masking(model, said(model), HEAD, ks=[5], progress=False)
    for root, control in zip(zeroed[1::2], zeroed[2::2], strict=True):
        assert torch.equal(root.layer, control.layer) and bool((root.index != control.index).all())


def test_bad_input_is_named():
    model = architectures.build("gpt2")
    _, cache = model.run_with_cache(architectures.prompts())
    neurons = tna.value_neurons(cache, 5, 4)
    with pytest.raises(ValueError, match="cache holds 2 prompts and neurons are of 2; a chain is of one"):
        cna.prediction_enhancing(cache, neurons)
    _, cache = model.run_with_cache(TOKENS)
    with pytest.raises(ValueError, match=r"neurons must be of MLPs, got \('attn'"):
        cna.prediction_enhancing(cache, tna.value_neurons(cache, 5, 4, sites=("attn",)))
    with pytest.raises(ValueError, match="ks must be at least 2, so that there are others than the root, got 1"):
        cna.root_masking(model, said(model), HEAD, ks=[5, 1])
    with pytest.raises(IndexError, match="must lie between 0 and 2, got 3"):
        cna.root_masking(model, said(model), (3, 0))


def test_the_root_is_of_the_layers_searched():
    model = architectures.build("llama")
    cases = said(model, 2)
    found = cna.root_masking(model, cases, HEAD, ks=[4], layers=[2], progress=False)
    assert found.frame["root"].tolist() == [0.0]  # no neuron of the last layer is above another
    whole = cna.root_masking(model, cases, HEAD, ks=[4], contrast=[7, 8], progress=False)
    lost = []
    for case, contrast in zip(cases, [7, 8], strict=True):
        top = cna.feature_predicting(model, torch.tensor(case.tokens), case.answer, head=HEAD, k=4, contrast=contrast)
        named = [("mlp", *at) for at in zip(top.neurons.layer.tolist(), top.neurons.index.tolist(), strict=True)]
        root = min(named, key=lambda n: n[1])  # the first of the lowest layer: they are sorted by change
        _, before, after = changes(model, case, [root])
        pairs = [(float(before[n[1:]]), float(after[n[1:]])) for n in named if n != root]
        lost.append(sum(b - a if b > 0 else a - b for b, a in pairs) / sum(abs(b) for b, _ in pairs))
    assert whole.frame["root"][0] == pytest.approx(sum(lost) / 2, abs=1e-5)
