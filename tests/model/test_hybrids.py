"""Blocks that mix positions without softmax attention: their mixer is one component, everything else is exact."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures, oracle
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.intervene import ablate
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.vis.head_rows import best_heads

POS, TARGETS = torch.tensor([6, 4]), torch.tensor([5, 11])
NAMES = list(architectures.HYBRIDS)
ATTENTION = 1
"""The one layer with heads."""


def close(got, expected, atol=1e-9):
    torch.testing.assert_close(got.double(), expected.double(), atol=atol, rtol=0)


def of_the_oracle(cache, layer, site, vectors):
    """Increases of what was written at the scored position of each prompt."""
    pairs = zip(POS.tolist(), TARGETS.tolist(), strict=True)
    return torch.stack(
        [
            oracle.increase(cache, layer, site, row, pos, vectors(row, pos), target)
            for row, (pos, target) in enumerate(pairs)
        ]
    )


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_layers_equal_the_oracle(name):
    """A mixer wrote what its own output hook says, which is not what the package reads."""
    _, cache = architectures.run(name)
    layers = tna.attribute_layers(cache, TARGETS, pos=POS)
    for layer in range(architectures.LAYERS):
        hook = next(h for m in ("attn", "linear_attn", "conv") if (h := f"blocks.{layer}.{m}.hook_out") in cache)
        close(layers.attn[:, layer], of_the_oracle(cache, layer, "attn", lambda r, p, h=hook: cache[h][r, p]))
        out = f"blocks.{layer}.hook_mlp_out"
        close(layers.mlp[:, layer], of_the_oracle(cache, layer, "mlp", lambda r, p, h=out: cache[h][r, p]))


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_mlp_neurons_of_every_layer_equal_the_oracle(name):
    _, cache = architectures.run(name)
    got = tna.attribute_mlp_neurons(cache, TARGETS, pos=POS)
    for layer in range(architectures.LAYERS):
        expected = of_the_oracle(cache, layer, "mlp", lambda r, p, la=layer: oracle.writes(cache, la, "mlp", r, p))
        close(got[:, layer, : expected.shape[1]], expected)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_heads_are_those_of_the_layers_that_have_some(name):
    """Together, heads and bias wrote what the attention's own hook says; gates included."""
    model, tokens = architectures.build(name), architectures.prompts()
    _, cache = model.run_with_cache(tokens)
    heads = tna.attribute_heads(cache, TARGETS, pos=POS)
    without = [layer for layer in range(architectures.LAYERS) if layer != ATTENTION]
    assert not heads[:, without].any() and heads[:, ATTENTION].all()
    sublayer = Stream(cache).sublayer("attn", ATTENTION, Stream(cache).positions(POS))
    written = sublayer.head_writes().sum(2)
    z, W_O = cache[f"blocks.{ATTENTION}.attn.hook_z"], model.blocks[ATTENTION].attn.W_O
    z = z.reshape(*z.shape[:2], len(W_O), -1)[[0, 1], POS]
    close(written, torch.einsum("bhj,hjd->bhd", z, W_O), 1e-6)  # hybrids compute rotations in float32
    close(heads[:, ATTENTION], of_the_oracle(cache, ATTENTION, "attn", lambda r, p: written[r]))
    neurons = tna.attribute_attn_neurons(cache, TARGETS, pos=POS)
    assert not neurons[:, without].any() and neurons.shape[1:3] == (architectures.LAYERS, dimensions.n_heads(model, 1))


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_the_top_k_and_the_query_scores_go_over_all_blocks(name):
    _, cache = architectures.run(name)
    value = tna.value_neurons(cache, TARGETS, 30, pos=POS)
    scores = [f(cache, TARGETS, pos=POS).flatten(1) for f in (tna.attribute_mlp_neurons, tna.attribute_attn_neurons)]
    close(value.score, torch.cat(scores, dim=1).sort(dim=1, descending=True).values[:, :30])
    layers = tna.query_layers(cache, value, pos=POS)
    close(layers.embed + layers.attn.sum(1) + layers.mlp.sum(1), value.score.sum(1), 1e-6)
    assert layers.attn[:, 0].any()  # the first mixer, as a whole
    assert len(tna.query_neurons(cache, value, 10, pos=POS)) == 10


def test_a_head_of_a_mixer_is_refused():
    with pytest.raises(ValueError, match=r"\(0, 1\): layer 0 has no attention heads; its mixer counts as a whole"):
        ablate(architectures.build("lfm2"), [(0, 1)]).__enter__()


@pytest.mark.parametrize(
    "call",
    [
        lambda model, cache, value: tna.attention_sources(cache, 0, 0),
        lambda model, cache, value: tna.transformed_tokens(model, value, layer=0, head=0),
        lambda model, cache, value: tna.transformed_tokens(model, value, layer=0, head=None),
        lambda model, cache, value: tna.evaluate.verify_components(model, "w1 w2", [("attn", 0)], 5, progress=False),
    ],
)
def test_a_layer_without_heads_is_named_wherever_heads_are_asked_for(call):
    model = architectures.build("lfm2")
    _, cache = model.run_with_cache(architectures.prompts(1))
    value = tna.value_neurons(cache, 5, 3, text=False)
    with pytest.raises(ValueError, match="layer 0 has no attention heads; its mixer counts as a whole"):
        call(model, cache, value)


@pytest.mark.parametrize("name", ["lfm2", "qwen3_5"])
def test_gradients_and_induction_have_zeros_where_there_are_no_heads(name):
    model = architectures.build(name, dtype=torch.float32)
    found = tna.evaluate.estimate_effects(model, "w1 w2 w3 w4", 5)
    scores = tna.incontext.prefix_matching(model, length=5)
    for layer in range(architectures.LAYERS):
        assert bool(found.attn[layer].any()) == bool(scores[layer].all()) == (layer == ATTENTION)
    with pytest.raises(ValueError, match="the relevance rule follows attention, MLPs"):
        tna.evaluate.estimate_effects(model, "w1 w2 w3 w4", 5, method="relevance")
    assert tna.evaluate.important_neurons(model, "w1 w2 w3", 5, 2, candidates=3, progress=False).neurons.labels


def test_a_report_shows_heads_that_there_are():
    model = architectures.build("lfm2", dtype=torch.float32)
    _, cache = model.run_with_cache("w1 w2 w3 w4")
    assert "L1H" in tna.vis.report(cache, 5, k=2, heads=4, queries=2, suppressing=4).body
    best = best_heads(tna.attribute_heads(cache, 5)[0], 12)
    assert sorted(best) == [(ATTENTION, head) for head in range(architectures.HEADS)]


def test_a_cache_without_the_stream_behind_a_mixer_is_refused():
    model = architectures.build("lfm2")
    dropped = ("resid_mid", "ln2.hook_in")  # two names of one hook
    kept = lambda name: not name.endswith(dropped)  # noqa: E731
    _, cache = model.run_with_cache(architectures.prompts(), names_filter=kept)
    with pytest.raises(ValueError, match=r"cache lacks blocks.0.hook_resid_mid"):
        tna.attribute_layers(cache, 5)
