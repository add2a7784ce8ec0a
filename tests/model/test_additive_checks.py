"""A cache that does not add up, or is not finite, is refused with the cause."""

from contextlib import nullcontext

import pytest
import torch
from transformer_lens import ActivationCache

import tl_neuron_attr as tna
from tests import architectures
from tests.model.test_cache_checks import TOKENS, cache_with
from tl_neuron_attr.model.additive_checks import require_neurons_add_up
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.numerics.sublayer import Sublayer


def changed(model, cache, name, value):
    return ActivationCache(dict(cache.items()) | {name: value}, model)


@torch.no_grad()
def test_a_block_that_does_not_add_up_is_refused_as_not_additive():
    model = architectures.build("llama")
    _, cache = model.run_with_cache(TOKENS)
    broken = changed(model, cache, "blocks.1.hook_mlp_out", 2 * cache["blocks.1.hook_mlp_out"])
    with pytest.raises(ValueError, match=r"hooks are not additive .layer 1: resid_pre"):
        tna.attribute_layers(broken, 5)


@torch.no_grad()
@pytest.mark.parametrize(
    "name, finding",
    [
        ("blocks.1.hook_resid_mid", r"layer 1: resid_pre \+ attn_out != resid_mid.* at blocks.1.hook_resid_mid"),
        ("blocks.2.hook_resid_pre", r"layer 2: resid_pre|layer 1: its resid_post is not the next layer's resid_pre"),
        ("ln_final.hook_normalized", "ln_final.hook_normalized is not the final stream"),
    ],
)
@pytest.mark.parametrize("pos", [0, 6])
def test_a_jump_of_the_stream_at_any_position_is_refused(name, finding, pos):
    model = architectures.build("llama")
    _, cache = model.run_with_cache(TOKENS)
    edited = cache[name].clone()
    edited[:, pos] += 0.1
    if name.startswith("ln_final") and pos == 0:
        return  # only the scored position is read out
    with pytest.raises(ValueError, match=finding):
        tna.attribute_layers(changed(model, cache, name, edited), 5)


@pytest.mark.parametrize("name", ["gpt2", "llama", "granite", "bloom"])
def test_a_first_stream_that_is_not_the_embedding_is_refused(name):
    model = architectures.build(name)
    cache = cache_with(model, "blocks.0.hook_resid_pre")
    for function in (tna.attribute_layers, tna.value_neurons):
        with pytest.raises(ValueError, match=r"embedding is not .* edits activations at blocks.0.hook_resid_pre"):
            function(cache, 5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "granite"])
def test_a_first_stream_that_is_off_by_a_hundred_thousandth_is_refused(name):
    """A model that only adds its embedding up does so in its own precision: nothing excuses a difference."""
    model = architectures.build(name)
    _, cache = model.run_with_cache(TOKENS)
    off = cache["blocks.0.hook_resid_pre"] * (1 + 1e-5)
    with pytest.raises(ValueError, match="the embedding is not the first block's resid_pre"):
        tna.attribute_layers(changed(model, cache, "blocks.0.hook_resid_pre", off), 5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "olmo", "granite"])
def test_an_embedding_that_a_hook_normalises_is_refused(name):
    """NanoChat alone norms its embedding itself."""
    model = architectures.build(name)
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", lambda x, hook: x / x.square().mean(-1, True).sqrt())]):
        _, cache = model.run_with_cache(TOKENS)
    with pytest.raises(ValueError, match="the embedding is not the first block's resid_pre"):
        tna.attribute_layers(cache, 5)


@torch.no_grad()
def test_a_jump_between_two_blocks_is_told_from_one_within():
    """The block after the jump adds up in itself: only the step shows it."""
    model = architectures.build("llama")
    with model.hooks(fwd_hooks=[("blocks.2.hook_resid_pre", lambda x, hook: x + 1)]):
        _, cache = model.run_with_cache(TOKENS)
    with pytest.raises(ValueError, match=r"layer 1: its resid_post .* at blocks.2.hook_resid_pre"):
        tna.attribute_layers(cache, 5)


@torch.no_grad()
@pytest.mark.parametrize("weight, site", [("W_out", "mlp"), ("W_O", "attn")])
def test_weights_changed_since_the_run_are_told_from_an_architecture_that_does_not_add_up(weight, site):
    model = architectures.build("llama")
    _, cache = model.run_with_cache(TOKENS)
    getattr(getattr(model.blocks[1], site), weight).mul_(1.5)
    function = tna.attribute_mlp_neurons if site == "mlp" else tna.attribute_attn_neurons
    with pytest.raises(ValueError, match="weights were changed since the run") as raised:
        function(cache, 5)
    assert "additive" not in str(raised.value)


@torch.no_grad()
def test_a_model_that_did_not_make_the_cache_is_refused_without_logits_too():
    model, other, gpt2 = architectures.build("llama"), architectures.build("llama", seed=1), architectures.build("gpt2")
    _, cache = model.run_with_cache(TOKENS, names_filter=lambda n: n != "unembed.hook_out")
    for wrong in (other, gpt2):
        for function in (tna.attribute_layers, tna.attribute_heads, tna.attribute_mlp_neurons):
            with pytest.raises(ValueError):
                function(cache, 5, model=wrong)
    assert torch.isfinite(tna.attribute_layers(cache, 5, model=model).mlp).all()
    bare = [n for n in cache if "hook_resid" in n or n.endswith(("attn_out", "mlp_out", "hook_scale"))]
    _, cache = model.run_with_cache(TOKENS, names_filter=bare)
    with pytest.raises(ValueError, match="nothing shows whether model= made it"):
        tna.attribute_layers(cache, 5, model=other)


@torch.no_grad()
@pytest.mark.parametrize("weight", ["W_U", "b_U", "ln_final.w", "blocks.1.ln2.w"])
@pytest.mark.parametrize(
    "function", [tna.attribute_layers, tna.attribute_heads, tna.attribute_head_positions, tna.value_neurons]
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_weight_that_is_not_finite_is_named(weight, function, when):
    model = architectures.build("gpt2", dtype=torch.float32)
    _, cache = model.run_with_cache(TOKENS)
    owner = model
    *path, name = weight.split(".")
    for part in path:
        owner = owner[int(part)] if part.isdigit() else getattr(owner, part)
    if weight.startswith("blocks") and when == "after":
        return  # does not enter these scores: what the layer read is in the cache
    getattr(owner, name).data[(3, 7) if name == "W_U" else (3,)] = torch.nan
    if when == "before":
        _, cache = model.run_with_cache(TOKENS)
    with pytest.raises(ValueError, match="holds NaN or Inf"):
        function(cache, 5)


@torch.no_grad()
def test_a_norm_behind_a_faint_embedding_is_allowed():
    model = architectures.build("nanochat")
    weight = model.embed.original_component.weight
    weight.div_(5 * weight.square().mean(-1, keepdim=True).sqrt())
    _, cache = model.run_with_cache(TOKENS)
    assert float(cache["hook_embed"].square().mean(-1).sqrt().max()) == pytest.approx(0.2)
    stream = cache["blocks.0.hook_resid_pre"]
    assert float(stream.square().mean(-1).sqrt().min()) > 0.9
    assert tna.attribute_layers(cache, 5).mlp.isfinite().all()


def test_terms_that_cancel_may_miss_their_sum_by_the_rounding_of_each():
    """A thousand terms of a million each, in turn up and down: in float32 their sum is right to about a hundred."""
    stream = Stream(architectures.run("llama", dtype=torch.float32)[1])
    terms = 1e6 * torch.tensor([1.0, -1.0]).repeat(500).reshape(1, 1000, 1)
    unit = torch.eye(1, architectures.D_MODEL)
    for off, refused in ((100.0, False), (1e6, True)):
        sublayer = Sublayer("mlp", 1, unit, off * unit, 0 * unit, terms[0] * unit, torch.ones(1, 1000, 1), heads=1)
        with pytest.raises(ValueError, match="do not sum to hook_mlp_out") if refused else nullcontext():
            require_neurons_add_up(stream, sublayer, unit, terms)
