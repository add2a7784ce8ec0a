"""The tensor that is not finite is named: the first in the stream's order, a weight before what it spoilt."""

import pytest
import torch
from transformer_lens import ActivationCache

from tests import architectures
from tl_neuron_attr.model.finite_checks import first_not_finite
from tl_neuron_attr.model.stream import Stream

TOKENS = architectures.prompts(1)
HOOKS = [
    "blocks.0.hook_resid_pre",
    "blocks.1.hook_attn_out",
    "blocks.1.attn.hook_v",
    "blocks.1.attn.hook_pattern",
    "blocks.2.mlp.hook_post",
    "blocks.2.hook_resid_post",
    "ln_final.hook_scale",
    "unembed.hook_out",
]


@pytest.fixture
def cache():
    return architectures.run("llama", batch=1)[1]


def spoilt(cache, names, value=torch.nan):
    """A copy of a cache with one value of some activations replaced."""
    changed = {name: cache[name].clone() for name in names}
    for tensor in changed.values():
        tensor.flatten()[3] = value
    return ActivationCache(dict(cache.items()) | changed, cache.model)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("hook", HOOKS)
def test_an_activation_is_named(cache, hook, value):
    assert first_not_finite(Stream(spoilt(cache, [hook], value))) == hook


def test_a_whole_run_has_none(cache):
    assert first_not_finite(Stream(cache)) is None


def test_the_cause_is_named_and_not_what_it_spoilt():
    """An activation edited while the model runs spoils all that follows it."""
    model = architectures.build("llama")
    for hook in ("blocks.1.mlp.hook_post", "blocks.1.attn.hook_v", "blocks.2.hook_mlp_out", "blocks.1.mlp.hook_pre"):
        with model.hooks(fwd_hooks=[(hook, lambda x, hook: x * torch.nan)]):
            _, cache = model.run_with_cache(TOKENS)
        assert bool(cache["unembed.hook_out"].isnan().any())
        assert first_not_finite(Stream(cache)) == hook


def test_of_several_the_first_in_the_streams_order_is_named(cache):
    assert first_not_finite(Stream(spoilt(cache, HOOKS[::-1]))) == HOOKS[0]
    assert first_not_finite(Stream(spoilt(cache, HOOKS[:3:-1]))) == HOOKS[4]


@torch.no_grad()
@pytest.mark.parametrize(
    "architecture, weight",
    [
        ("llama", "blocks.1.attn.W_O"),
        ("llama", "blocks.1.mlp.W_gate"),
        ("llama", "blocks.2.ln2.w"),
        ("gpt2", "blocks.0.mlp.b_in"),
        ("gpt2", "blocks.1.ln1.b"),
        ("gpt2", "ln_final.b"),
        ("llama", "W_U"),
    ],
)
def test_a_weight_is_named_and_not_the_activations_it_spoilt(architecture, weight):
    model = architectures.build(architecture)
    *path, name = weight.split(".")
    owner = model
    for part in path:
        owner = owner[int(part)] if part.isdigit() else getattr(owner, part)
    tensor = getattr(owner, name)
    tensor[(0,) * tensor.ndim] = torch.nan
    _, cache = model.run_with_cache(TOKENS)
    assert not bool(cache["unembed.hook_out"].isfinite().all())
    assert first_not_finite(Stream(cache)) == weight


def test_a_cache_that_lacks_hooks_is_searched_as_far_as_it_goes(cache):
    few = ActivationCache(
        {n: t for n, t in cache.items() if n.endswith(("hook_resid_pre", "hook_resid_post"))}, cache.model
    )
    assert first_not_finite(Stream(few)) is None
    assert first_not_finite(Stream(spoilt(few, ["blocks.1.hook_resid_post"]))) == "blocks.1.hook_resid_post"
