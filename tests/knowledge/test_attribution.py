"""Every score of every architecture against the float64 oracle, and the identities that hold between scores."""

import pytest
import torch
from tqdm import tqdm

import tl_neuron_attr as tna
from tests import architectures, oracle
from tl_neuron_attr.knowledge import attribution as module
from tl_neuron_attr.knowledge.attribution import source_scores_of_heads

POS, TARGETS = [6, 4], [5, 11]
MODES = [pytest.param(False, id="default"), pytest.param(True, id="compat")]


def question(cache):
    return {"target": torch.tensor(TARGETS), "pos": torch.tensor(POS), "cache": cache}


def close(got, expected, atol=1e-9):
    torch.testing.assert_close(got.double(), expected, atol=atol, rtol=0)


@pytest.mark.parametrize("compat", MODES)
@pytest.mark.parametrize("name", [*architectures.DENSE, *architectures.LATER])
def test_scores_equal_the_oracle(name, compat):
    _, cache = architectures.run(name, compat=compat)
    q = question(cache)
    atol = 1e-5 if name in architectures.SINGLE else 1e-9
    mlp = oracle.neuron_scores(cache, "mlp", POS, TARGETS)
    attn = oracle.neuron_scores(cache, "attn", POS, TARGETS)
    close(tna.attribute_mlp_neurons(**q), mlp, atol)
    close(tna.attribute_attn_neurons(**q), attn, atol)
    value = tna.value_neurons(**q, k=25) if name != "gemma2" else _with_warning(q)
    ranked = torch.cat([mlp.flatten(1), attn.flatten(1)], dim=1).sort(dim=1, descending=True).values[:, :25]
    close(value.score, ranked, atol)


def _with_warning(q):
    with pytest.warns(UserWarning, match="caps its logits"):
        return tna.value_neurons(**q, k=25)


@pytest.mark.parametrize("compat", MODES)
@pytest.mark.parametrize("name", list(architectures.BUILDERS | architectures.EXPERTS | architectures.LATER))
def test_layers_and_heads_equal_the_oracle(name, compat):
    _, cache = architectures.run(name, compat=compat)
    q, atol = question(cache), 1e-5 if name in architectures.SINGLE else 1e-9
    layers, heads, sources = tna.attribute_layers(**q), tna.attribute_heads(**q), tna.attribute_head_positions(**q)
    with torch.no_grad():
        for row, (pos, target) in enumerate(zip(POS, TARGETS, strict=True)):
            for layer in range(architectures.LAYERS):
                written = oracle.writes(cache, layer, "attn", row, pos).sum(2)
                close(sources[row, layer], oracle.increase(cache, layer, "attn", row, pos, written, target), atol)
                close(heads[row, layer], oracle.increase(cache, layer, "attn", row, pos, written.sum(1), target), atol)
                for site, got in (("attn", layers.attn), ("mlp", layers.mlp)):
                    out = cache[f"blocks.{layer}.hook_{site}_out"][row, pos].double()
                    close(got[row, layer], oracle.increase(cache, layer, site, row, pos, out, target), atol)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "granite"])
def test_contrast_equals_the_oracle(name):
    _, cache = architectures.run(name)
    q = question(cache)
    close(tna.attribute_mlp_neurons(**q, contrast=3), oracle.neuron_scores(cache, "mlp", POS, TARGETS, contrast=3))
    close(tna.attribute_attn_neurons(**q, contrast="w3"), oracle.neuron_scores(cache, "attn", POS, TARGETS, contrast=3))


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_scored_in_float32(name, dtype):
    """The oracle takes the same cached activations and weights, so half precision costs the scores nothing."""
    _, cache = architectures.run(name, dtype=dtype)
    scores = tna.attribute_mlp_neurons(**question(cache))
    assert scores.dtype == torch.float32
    close(scores, oracle.neuron_scores(cache, "mlp", POS, TARGETS), 1e-5)


@pytest.mark.parametrize("name", architectures.DENSE)
def test_compatibility_mode_changes_no_neuron_score(name):
    plain, compat = (architectures.run(name, compat=c)[1] for c in (False, True))
    scores = [tna.attribute_mlp_neurons(c, 5) for c in (plain, compat)]
    close(scores[0], scores[1].double(), atol=1e-5)


def test_compatibility_mode_moves_value_biases_out_of_heads():
    plain, compat = (tna.attribute_heads(architectures.run("gpt2", compat=c)[1], 5) for c in (False, True))
    assert (plain - compat).abs().max() > 1e-2


def test_one_prompt_of_a_batch_scores_as_alone():
    _, cache = architectures.run("llama", batch=3)
    _, alone = architectures.build("llama").run_with_cache(architectures.prompts(3)[1:2])
    close(tna.attribute_attn_neurons(cache, 7)[1], tna.attribute_attn_neurons(alone, 7)[0], 1e-12)
    close(tna.attribute_mlp_neurons(cache, 7)[1], tna.attribute_mlp_neurons(alone, 7)[0], 1e-12)


def test_a_cache_without_batch_dimension_gives_results_without_one():
    _, cache = architectures.run("gpt2", batch=1)
    with_batch = tna.attribute_heads(cache, 5)
    value = tna.value_neurons(cache, 5, 4)
    cache.remove_batch_dim()
    close(tna.attribute_heads(cache, 5), with_batch[0], 1e-12)
    assert tna.value_neurons(cache, 5, 4).labels == value.labels
    assert tna.attribute_layers(cache, 5).attn.shape == (architectures.LAYERS,)


@pytest.mark.parametrize("max_bytes", [1, 10_000, 2**28])
def test_the_working_set_changes_nothing(max_bytes):
    _, cache = architectures.run("gpt2")
    for function in (tna.attribute_mlp_neurons, tna.attribute_attn_neurons, tna.attribute_head_positions):
        close(function(cache, 5, max_bytes=max_bytes), function(cache, 5).double(), 1e-12)
    capped, free = (tna.value_neurons(cache, 5, 20, max_bytes=m) for m in (max_bytes, 2**30))
    assert capped.labels == free.labels


def test_padding_on_either_side_changes_no_score():
    model = architectures.build("gpt2")
    _, alone = model.run_with_cache(["w1 w2 w3 w4"])
    _, left = model.run_with_cache(["w1 w2 w3 w4", "w5 w6 w7 w8 w9 w10"], padding_side="left")
    _, right = model.run_with_cache(["w1 w2 w3 w4", "w5 w6 w7 w8 w9 w10"])
    expected = tna.attribute_mlp_neurons(alone, 9)[0].double()
    close(tna.attribute_mlp_neurons(left, 9)[0], expected, 1e-9)
    close(tna.attribute_mlp_neurons(right, 9, pos=torch.tensor([4, 6]))[0], expected, 1e-9)


def test_layers_selects_and_orders():
    _, cache = architectures.run("gpt2")
    every = tna.attribute_mlp_neurons(cache, 5).double()
    # Not bit for bit: a product with fewer streams may add up in another order.
    close(tna.attribute_mlp_neurons(cache, 5, layers=[2, 0]), every[:, [2, 0]], 1e-14)


def test_leaving_the_final_bias_out_changes_the_base():
    """The authors' GPT-2 notebook drops ln_f.bias: scores are those of a model whose bias is zero."""
    model = architectures.build("gpt2")
    _, cache = model.run_with_cache(architectures.prompts())
    without = tna.attribute_mlp_neurons(cache, 5, final_bias=False)
    assert (without - tna.attribute_mlp_neurons(cache, 5)).abs().max() > 1e-3
    with torch.no_grad():
        model.ln_final.b.zero_()
    close(without[0, 1], oracle.neuron_scores(cache, "mlp", [6, 6], [5, 5])[0, 1])


def test_results_carry_no_graph():
    _, cache = architectures.run("gpt2")
    assert not tna.attribute_mlp_neurons(cache, 5).requires_grad
    assert not tna.value_neurons(cache, 5, 3).score.requires_grad


@pytest.mark.parametrize("name", ["llama", "qwen3_next"])  # a block of the second has a mixer and no heads
def test_source_scores_of_some_heads_are_those_of_all(name):
    _, cache = architectures.run(name, batch=1)
    q = tna.scored(cache, 5)
    every = tna.attribute_head_positions(q)[0]
    heads = [(layer, head) for layer in reversed(range(every.shape[0])) for head in range(every.shape[1])][::2]
    found = source_scores_of_heads(q, heads)
    assert set(found) == set(heads)
    for at, scores in found.items():
        close(scores, every[at].double(), 1e-9 if every.dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("progress", [True, False])
def test_a_bar_counts_the_layers(monkeypatch, capsys, progress):
    monkeypatch.setattr(module, "tqdm", lambda *values, **options: tqdm(*values, **{**options, "delay": 0}))
    _, cache = architectures.run("llama", batch=1)
    tna.attribute_mlp_neurons(cache, 5, progress=progress)
    assert ("neurons: 100%" in capsys.readouterr().err) == progress
