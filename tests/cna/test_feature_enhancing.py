"""Shallow neurons against the oracle's writes, moved by hand; their ranking against every neuron there is."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures, oracle
from tests.cna.test_feature_transferring import HEAD, POS, TOKENS, moved, neuron
from tl_neuron_attr import cna


def enhanced(name="llama", *, head=HEAD, k=6, compat=False, **options):
    model = architectures.build(name, compat=compat)
    _, cache = model.run_with_cache(TOKENS)
    carried = cna.feature_transferring(cache, neuron(2, 7), head, pos=POS, **options)
    return cache, carried, cna.feature_enhancing(cache, carried, k=k)


@torch.no_grad()
@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("name", architectures.DENSE)
def test_the_best_of_all_shallow_neurons_are_found_with_their_exact_parts(name, compat):
    cache, carried, found = enhanced(name, hops=1, compat=compat)
    keys = oracle.keys(cache, 2, "mlp", 7)
    parts = torch.stack(
        [
            torch.stack(
                [
                    torch.stack(
                        [
                            oracle.norm_read(cache, 2, "mlp", 0, POS, moved(cache, 1, [2], POS, source, write)) @ key
                            for write in oracle.writes(cache, 0, "mlp", 0, source)
                        ]
                    )
                    for source in range(POS + 1)
                ]
            )
            for key in keys
        ]
    )
    best = (carried.hops[0].sign * parts.sum(0)).flatten().topk(6)
    tolerance = 1e-5 if compat else 1e-9
    assert (carried.hops[0].sign * found.neurons.score).tolist() == pytest.approx(best.values.tolist(), abs=tolerance)
    at = (found.pos, found.neurons.index)
    for inner, expected in zip(found.inner.values(), parts, strict=True):
        assert inner.tolist() == pytest.approx(expected[at].tolist(), abs=tolerance)
    post = cache["blocks.0.mlp.hook_post"][0]
    assert found.neurons.coefficient.tolist() == pytest.approx(post[at].tolist(), rel=1e-6)


def test_neurons_are_ranked_in_the_sign_of_the_hop():
    _, carried, found = enhanced("gpt2", k=400)
    assert len(found.neurons) == (POS + 1) * 80 and set(found.hop.tolist()) == {0}, "nothing lies below layer 0"
    signed = carried.hops[0].sign * found.neurons.score
    assert signed.tolist() == sorted(signed.tolist(), reverse=True)
    assert len(set(found.names)) == len(found.names)


def test_neurons_of_all_hops_are_ranked_together_by_the_paths_they_took():
    _, carried, found = enhanced("qwen3", head=(2, 1), k=4000)
    first, second = carried.hops
    assert (first.layer, second.layer) == (2, 1), "another model is needed: the second hop has no MLP below it"
    assert len(found.neurons) == (POS + 1) * 160 + (second.pos + 1) * 80
    for hop, layers, each in ((0, (0, 1), first), (1, (0,), second)):
        mine = found.hop == hop
        for layer in layers:
            for pos in range(each.pos + 1):
                at = mine & (found.neurons.layer == layer) & (found.pos == pos)
                component = each.total[2 + 2 * layer, pos]
                assert float(found.neurons.score[at].sum()) == pytest.approx(float(component), abs=1e-9)
    assert found.after.labels[0].endswith(found.hops[int(found.hop[0])])


def test_tokens_are_those_before_and_after_the_hop():
    cache, _, found = enhanced()
    before = tna.top_tokens(cache, found.neurons, 6)
    after = tna.transformed_tokens(cache, found.neurons, *HEAD, k=6)
    assert found.before.promoted == before.promoted and found.after.promoted == after.promoted
    frame = found.to_frame()
    assert frame["neuron"].tolist() == found.names and set(frame["hop"]) == {"L1H2"}
    assert frame["token"].tolist() == [f"w{int(TOKENS[0, p])}" for p in found.pos.tolist()]
    assert (frame["gate"] + frame["up"]).tolist() == pytest.approx(frame["sum"].tolist())
    assert found.names[0] in str(found) and "gate" in str(found)


def test_bad_input_is_named():
    cache, carried, _ = enhanced("gpt2")
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        cna.feature_enhancing(cache, carried, k=0)
    low = cna.feature_transferring(cache, neuron(2, 7), (0, 1), pos=POS)
    with pytest.raises(ValueError, match="no MLP lies below L0H1: take a head of a higher layer"):
        cna.feature_enhancing(cache, low)
    _, short = cache.model.run_with_cache(TOKENS[:, :3])
    with pytest.raises(ValueError, match=r"transferring is of another run: it has position 4.*3 tokens"):
        cna.feature_enhancing(short, carried)
