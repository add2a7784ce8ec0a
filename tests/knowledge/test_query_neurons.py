"""Query scores against loops over components and neurons, and the sums they must have."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures, oracle
from tl_neuron_attr.knowledge.query_neurons import contributions, weighted_subkeys
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.subkeys import subkeys
from tl_neuron_attr.numerics.sublayer import SITES

POS = torch.tensor([6, 4])


def case(name, k=8, **options):
    _, cache = architectures.run(name, **options)
    if name == "gemma2":
        with pytest.warns(UserWarning, match="caps its logits"):
            return cache, tna.value_neurons(cache, 5, k, pos=POS)
    return cache, tna.value_neurons(cache, 5, k, pos=POS)


def close(got, expected, atol=1e-8):
    torch.testing.assert_close(got.double(), expected.double(), atol=atol, rtol=1e-6)


def each_value_neuron(value, row):
    """Site, layer, head, index, the position read and the score."""
    for i in range(len(value)):
        site = SITES[int(value.site[row, i])]
        read = int(POS[row]) if site == "mlp" else int(value.source[row, i])
        yield site, *(int(t[row, i]) for t in (value.layer, value.head, value.index)), read, float(value.score[row, i])


def shares(cache, row, site, layer, head, index, read):
    """By subkey: the inner products with all components, and a function that gives a vector's share."""
    found = []
    for key in oracle.keys(cache, layer, site, index, head):
        parts = {
            name: oracle.norm_read(cache, layer, site, row, read, cache[name][row, read].double()) @ key
            for name in oracle.fed_by(cache, layer, site)
        }
        found.append((key, parts, sum(parts.values())))
    return found


@torch.no_grad()
@pytest.mark.parametrize("name", [*architectures.DENSE, *architectures.LATENT])
def test_query_layers_equal_the_oracle(name):
    cache, value = case(name)
    got = tna.query_layers(cache, value, pos=POS)
    for row in range(2):
        expected = {}
        for *neuron, read, score in each_value_neuron(value, row):
            found = shares(cache, row, *neuron, read)
            for _, parts, total in found:
                for hook, inner in parts.items():
                    expected[hook] = expected.get(hook, 0) + score / len(found) * inner / total
        close(got.embed[row], expected["blocks.0.hook_resid_pre"])
        for layer in range(architectures.LAYERS):
            for site, scores in (("attn", got.attn), ("mlp", got.mlp)):
                close(scores[row, layer], torch.as_tensor(expected.get(f"blocks.{layer}.hook_{site}_out", 0.0)))
        close(got.embed[row] + got.attn[row].sum() + got.mlp[row].sum(), value.score[row].sum())


@torch.no_grad()
@pytest.mark.parametrize("name", [*architectures.DENSE, *architectures.LATENT])
def test_query_neurons_equal_the_oracle(name):
    cache, value = case(name)
    got = tna.query_neurons(cache, value, 10_000, pos=POS)
    for row in range(2):
        mlp, attn = {}, {}
        for site, layer, head, index, read, score in each_value_neuron(value, row):
            found = shares(cache, row, site, layer, head, index, read)
            for below in range(architectures.LAYERS):
                for s in ("attn", "mlp"):
                    if f"blocks.{below}.hook_{s}_out" not in oracle.fed_by(cache, layer, site):
                        continue
                    if s == "attn" and site == "attn":
                        continue
                    read_as = oracle.norm_read(cache, layer, site, row, read, oracle.writes(cache, below, s, row, read))
                    for key, _, total in found:
                        into = mlp if s == "mlp" else attn
                        into[below] = into.get(below, 0) + score / len(found) * (read_as @ key) / total
        for i in range(len(got)):
            layer, index, score = int(got.layer[row, i]), got.index[row, i], got.score[row, i]
            is_mlp = SITES[int(got.site[row, i])] == "mlp"
            at = (index,) if is_mlp else (got.head[row, i], got.source[row, i], index)
            expected = (mlp if is_mlp else attn).get(layer)
            close(score, torch.zeros(()) if expected is None else expected[at])
        close(got.score[row].sum(), sum(scores.sum() for scores in (*mlp.values(), *attn.values())))
        assert (got.score[row].diff() <= 0).all()


@torch.no_grad()
@pytest.mark.parametrize("name", architectures.DENSE)
def test_inner_products_sum_to_the_pre_activation_the_model_computed(name):
    """Minus what is no component: the neuron's bias, and the norm's bias seen through the key."""
    cache, value = case(name)
    stream = Stream(cache)
    rows = subkeys(stream, value, stream.positions(POS), "both")
    totals, _ = rows.total(stream)
    for i, neuron in enumerate(rows.neuron.tolist()):
        row, column = divmod(neuron, len(value))
        site, layer, head, index, read, _ = list(each_value_neuron(value, row))[column]
        block = cache.model.blocks[layer]
        two = site == "mlp" and block.mlp.W_gate is not None if hasattr(block.mlp, "W_gate") else False
        of_layer = [n for n in rows.neuron.tolist()[:i] if n == neuron]
        hook, bias = pre_activation(cache, row, read, site, layer, head, index, second=two and len(of_layer) == 1)
        close(totals[i], hook - bias, 1e-5)


def pre_activation(cache, row, read, site, layer, head, index, *, second):
    """What the model computed, and the part of it that no component wrote."""
    block = cache.model.blocks[layer]
    if site == "attn":
        kv = head // (len(block.attn.W_O) // len(block.attn.W_V))
        computed = cache[f"blocks.{layer}.attn.hook_v"][row, read, kv, index].double()
        own = getattr(block.attn, "b_V", None)
        own = 0.0 if own is None else own.reshape(len(block.attn.W_V), -1)[kv, index].double()
        key = block.attn.W_V[kv][:, index].double()
    else:
        gate = getattr(block.mlp, "W_gate", None)
        linear = second or gate is None
        name = "hook_pre_linear" if second else "hook_pre"
        computed = cache[f"blocks.{layer}.mlp.{name}"][row, read, index].double()
        own = getattr(block.mlp, "b_in" if linear else "b_gate", None)
        own = 0.0 if own is None else own[index].double()
        key = (block.mlp.W_in if linear else gate)[:, index].double()
    norm = next((n for n in (("ln2", "ln1") if site == "mlp" else ("ln1",)) if hasattr(block, n)), None)
    norm_bias = getattr(getattr(block, norm), "b", None) if norm else None
    return computed, own + (0.0 if norm_bias is None else norm_bias.double() @ key)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "gemma2", "neox_parallel", "olmo2"])
def test_neurons_and_biases_sum_to_their_layer(name):
    value = case(name)[1][0]
    mlp_only = replace(value, **{f: getattr(value, f)[value.site == 1] for f in value._saved() if f != "evaluated"})
    if not len(mlp_only):
        pytest.fail("the case has no MLP value neuron: choose another")
    one = architectures.build(name).run_with_cache(architectures.prompts()[:1])[1]
    layers = tna.query_layers(one, mlp_only)
    stream, rows = weighted_subkeys(one, mlp_only, pos=-1, key="both", model=None)
    for sublayer, fed, contribution in contributions(stream, rows, ("attn", "mlp")):
        depth = 2 * sublayer.layer + (sublayer.site == "mlp")
        bias = (fed.above(depth) * sublayer.bias).sum()
        layer = (layers.attn if sublayer.site == "attn" else layers.mlp)[sublayer.layer]
        close(contribution.sum() + bias, layer, 1e-6)


def test_gate_and_up_are_halves_of_both():
    cache, value = case("llama")
    gate, up, both = (tna.query_layers(cache, value, pos=POS, key=key) for key in ("gate", "up", "both"))
    close(both.mlp, (gate.mlp + up.mlp) / 2)
    assert (gate.mlp - up.mlp).abs().max() > 1e-6
    cache, value = case("gpt2")
    close(tna.query_layers(cache, value, pos=POS, key="up").attn, tna.query_layers(cache, value, pos=POS).attn)
    with pytest.raises(ValueError, match="key='gate': this model's MLPs have no gate"):
        tna.query_layers(cache, value, pos=POS, key="gate")


def test_a_prompt_of_a_batch_is_as_alone_and_groups_change_nothing():
    cache, value = case("llama")
    _, alone = architectures.build("llama").run_with_cache(architectures.prompts()[1:])
    for sites in (("mlp",), ("attn", "mlp")):
        batch = tna.query_neurons(cache, value, 20, pos=POS, sites=sites)
        one = tna.query_neurons(alone, value[1], 20, pos=4, sites=sites)
        assert not one.batched and one.labels == batch.labels[1]
        close(one.score, batch.score[1], 1e-12)
        assert tna.query_neurons(cache, value, 20, pos=POS, sites=sites, max_bytes=1).labels == batch.labels
    close(tna.query_layers(alone, value[1], pos=4).attn, tna.query_layers(cache, value, pos=POS).attn[1], 1e-12)


def test_nothing_lies_below_layer_0():
    cache, _ = case("gpt2")
    value = tna.value_neurons(cache, 5, 40, pos=POS, sites=("attn",))
    bottom = tna.Neurons(**{
        f: torch.stack([getattr(value, f)[row][(value.layer[row] == 0)][:2] for row in range(2)])
        for f in ("site", "layer", "head", "source", "index", "coefficient", "score")
    })  # fmt: skip
    query = tna.query_neurons(cache, bottom, 5, pos=POS)
    assert query.score.shape == (2, 0) and query.labels == [[], []]
    assert "neuron" in str(query)
    layers = tna.query_layers(cache, bottom, pos=POS)
    assert layers.attn.eq(0).all() and layers.mlp.eq(0).all()
    close(layers.embed, bottom.score.sum(1))


def test_a_neuron_with_coefficient_zero_contributes_nothing():
    _, cache = architectures.run("opt")  # ReLU
    value = tna.value_neurons(cache, 5, 240, sites=("mlp",))
    silent = (value.coefficient[0] == 0).nonzero()[:3, 0]
    assert len(silent) == 3
    picked = tna.Neurons(**{
        f: getattr(value, f)[:1, silent]
        for f in ("site", "layer", "head", "source", "index", "coefficient", "score")
    })  # fmt: skip
    _, one = architectures.build("opt").run_with_cache(architectures.prompts()[:1])
    assert tna.query_layers(one, picked).attn.eq(0).all()
    assert tna.query_neurons(one, picked, 4).score.eq(0).all()


def test_inner_products_that_cancel_are_flagged_and_left_out():
    model = architectures.build("gpt2")
    _, cache = model.run_with_cache(architectures.prompts()[:1])
    value = tna.value_neurons(cache, 5, 4, sites=("mlp",))
    layer, index = int(value.layer[0, 0]), int(value.index[0, 0])
    read = cache[f"blocks.{layer}.hook_resid_mid"][0, -1]
    norm = model.blocks[layer].ln2
    seen = (read - read.mean()) / cache[f"blocks.{layer}.ln2.hook_scale"][0, -1] * norm.w
    with torch.no_grad():  # a key orthogonal to the stream it reads
        key = model.blocks[layer].mlp.W_in[:, index]
        key -= seen * (key @ seen) / (seen @ seen)
    _, cache = model.run_with_cache(architectures.prompts()[:1])
    every = tna.value_neurons(cache, 5, 240, sites=("mlp",))  # all of them
    flagged = f"L{layer}N{index}"
    with pytest.warns(UserWarning, match=f"inner products of {flagged} .* nearly cancel"):
        layers = tna.query_layers(cache, every)
    others = torch.tensor([label != flagged for label in every.labels])
    assert int((~others).sum()) == 1 and float(every.score[0, ~others].abs()) > 0
    close(layers.embed + layers.attn.sum(1) + layers.mlp.sum(1), every.score[:, others].sum(1))


def test_value_neurons_of_another_cache_are_refused():
    cache, value = case("gpt2")
    _, other = architectures.build("gpt2").run_with_cache(architectures.prompts(seed=9))
    for function in (tna.query_layers, tna.query_neurons):
        with pytest.raises(ValueError, match=r"value is of another cache or position: L\d.* has coefficient"):
            function(other, value, pos=POS)
        with pytest.raises(ValueError, match="value is of another cache or position"):
            function(cache, value)
        with pytest.raises(ValueError, match="value is of 1 prompt and cache of 2"):
            function(cache, value[0])
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        tna.query_neurons(cache, value, 0, pos=POS)
    with pytest.raises(ValueError, match="sites must name"):
        tna.query_neurons(cache, value, 1, pos=POS, sites=())


def test_a_missing_norm_is_named():
    model = architectures.build("gpt2")
    _, cache = model.run_with_cache(architectures.prompts())
    value = tna.value_neurons(cache, 5, 4)
    _, partial = model.run_with_cache(architectures.prompts(), names_filter=lambda name: "ln2.hook_scale" not in name)
    with pytest.raises(ValueError, match=r"cache lacks blocks.0.ln2.hook_scale"):
        tna.query_layers(partial, value)


def test_attention_value_neurons_of_a_mixture_of_experts_have_query_layers():
    _, cache = architectures.run("mixtral")
    value = tna.value_neurons(cache, 5, 6, sites=("attn",))
    layers = tna.query_layers(cache, value)
    close(layers.embed + layers.attn.sum(1) + layers.mlp.sum(1), value.score.sum(1))
    assert all("E" in label for label in tna.query_neurons(cache, value, 3, sites="mlp").labels[0])


@torch.no_grad()
def test_a_coefficient_is_that_of_the_position_where_most_was_contributed():
    """In its own prompt, by size whatever the sign: MLP neurons that feed attention neurons at several positions."""
    cache, value = case("llama", k=40)
    found = tna.query_neurons(cache, value, 10_000, pos=POS, sites=("mlp",))  # those that switched off, too
    several = 0
    for row in range(2):
        by_position = {}
        for *neuron, read, score in each_value_neuron(value, row):
            for key, _, total in shares(cache, row, *neuron, read):
                halves = 2 if neuron[0] == "mlp" else 1  # llama's gate and up
                by_position.setdefault(read, []).append((neuron, key, score / halves / total))
        for i in range(len(found)):
            layer, index = int(found.layer[row, i]), int(found.index[row, i])
            contributed = {}
            for read, reading in by_position.items():
                written = oracle.writes(cache, layer, "mlp", row, read)[index]
                contributed[read] = sum(
                    weight * (oracle.norm_read(cache, n[1], n[0], row, read, written) @ key)
                    for n, key, weight in reading
                    if f"blocks.{layer}.hook_mlp_out" in oracle.fed_by(cache, n[1], n[0])
                )
            strongest = max(contributed, key=lambda read: abs(contributed[read]))
            several += len(contributed) > 1 and strongest != min(contributed)
            post = cache[f"blocks.{layer}.mlp.hook_post"][row, strongest, index]
            close(found.coefficient[row, i], post)
            close(found.score[row, i], sum(contributed.values()))
    assert several > 10


def test_only_value_neurons_whose_inner_products_cancel_are_left_out(monkeypatch):
    cache, value = case("llama")
    rows = subkeys(Stream(cache), value, Stream(cache).positions(POS), "both")
    total, size = rows.total(Stream(cache))
    ratio = (total.abs() / size).sort().values
    between = float((ratio[2] + ratio[3]) / 2)
    monkeypatch.setattr("tl_neuron_attr.knowledge.query_neurons.ILL_CONDITIONED", between)
    with pytest.warns(UserWarning, match="nearly cancel"):
        _, weighted = weighted_subkeys(cache, value, pos=POS)
    left_out = weighted.u.abs().sum(1) == 0
    assert torch.equal(left_out, total.abs() / size <= between) and int(left_out.sum()) == 3


ANSWER = torch.tensor([5, 17, 5])


def answered(**given):
    """An answer of three tokens, its value neurons, and the same neurons of each token by itself."""
    model = architectures.build("llama")
    q = tna.answer(model, architectures.prompts(1, 4)[0], ANSWER, **given)
    value = tna.value_neurons(q, k=8)
    return q, value, [value.per_token[i] for i in range(len(value.per_token.score))]


def test_query_layers_of_an_answer_are_those_of_its_tokens_added_up():
    q, value, each = answered()
    found = tna.query_layers(q, value)
    alone = [tna.query_layers(q.stream.cache, v.unsqueeze(), pos=3 + i) for i, v in enumerate(each)]
    for name in ("embed", "attn", "mlp"):
        close(getattr(found, name), sum(getattr(one, name)[0] for one in alone))
    close(found.embed + found.attn.sum() + found.mlp.sum(), value.score.sum())


def test_query_neurons_of_an_answer_are_those_of_its_tokens_added_up():
    q, value, each = answered()
    expected: dict[str, float] = {}
    for i, v in enumerate(each):
        one = tna.query_neurons(q.stream.cache, v.unsqueeze(), 10_000, pos=3 + i)[0]
        for label, score in zip(one.labels, one.score.tolist(), strict=True):
            expected[label] = expected.get(label, 0.0) + score
    best = sorted(expected.items(), key=lambda item: -item[1])[:20]
    found = tna.query_neurons(q, value, 20)
    assert found.labels == [label for label, _ in best]
    close(found.score, torch.tensor([score for _, score in best]))


def test_each_token_may_be_queried_by_itself():
    q, value, each = answered()
    found = tna.query_neurons(q.per_token, value.per_token, 5)
    for i, v in enumerate(each):
        assert found[i].labels == tna.query_neurons(q.stream.cache, v.unsqueeze(), 5, pos=3 + i)[0].labels


def test_query_scores_of_a_contrast_and_of_several_answers_sum_to_the_scores():
    for given in ({"contrast": torch.tensor([5, 30])}, {"contrast": "w9"}):
        q, value, _ = answered(**given)
        layers = tna.query_layers(q, value)
        close(layers.embed + layers.attn.sum() + layers.mlp.sum(), value.score.sum())
    _, cache = architectures.run("llama")
    q = tna.scored(cache, tna.any_of("w5", "w7"), contrast=tna.any_of("w1", "w2"))
    value = tna.value_neurons(q, k=6)
    layers = tna.query_layers(q, value)
    close(layers.embed + layers.attn.sum(-1) + layers.mlp.sum(-1), value.score.sum(-1))


def test_value_neurons_of_an_answer_go_with_its_scored_cache():
    q, value, _ = answered()
    with pytest.raises(ValueError, match="value is of an answer: pass the scored cache it was found in"):
        tna.query_layers(q.stream.cache, value.unsqueeze())
    with pytest.raises(ValueError, match="value is of another target"):
        tna.query_neurons(q, replace(value, token_score=None, token_coefficient=None))
    several = tna.answer(q.stream.model, "w1", tna.any_of("w5 w6", "w7"))
    with pytest.raises(ValueError, match="value is of several right answers of several tokens"):
        tna.query_layers(several, tna.value_neurons(several, k=3))


def test_common_neurons_are_left_out_of_a_prompt_longer_than_the_stream_is_wide():
    """An attention neuron takes a place in the list for each of its 40 sources, and the stream is 32 wide."""
    _, cache = architectures.build("llama").run_with_cache(architectures.prompts(1, 40))
    value = tna.value_neurons(cache, 5, k=8)
    whole = architectures.LAYERS * architectures.HEADS * 8 * 40
    every = tna.query_neurons(cache, value, whole, sites=("attn",), text=False)[0].labels
    strongest = list(dict.fromkeys(label.split("@")[0] for label in every))
    chosen = strongest[: len(strongest) // 2]
    common = tna.CommonNeurons(pd.DataFrame({"neuron": chosen}), 2, 8, 10.0, (3, 32, 97))
    expected = [label for label in every if label not in common]
    found = tna.query_neurons(cache, value, len(expected), sites=("attn",), text=False, exclude_common=common)[0]
    assert found.labels == expected
