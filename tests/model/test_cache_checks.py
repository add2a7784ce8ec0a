"""A cache made while a hook edited activations gives the numbers of the stream as it was, or is refused by name."""

import pytest
import torch
from transformer_lens import ActivationCache

import tl_neuron_attr as tna
from tests import architectures, oracle

TOKENS = architectures.prompts(1)
NAMES = ["gpt2", "llama", "neox_parallel", "gemma2", "bloom"]
STREAM_HOOKS = [
    "hook_embed",
    "blocks.0.hook_resid_pre",
    "blocks.1.hook_resid_pre",
    "blocks.1.hook_resid_mid",
    "blocks.1.hook_resid_post",
]
SUBLAYER_HOOKS = ["attn.hook_z", "attn.hook_v", "mlp.hook_post", "hook_attn_out", "hook_mlp_out", "ln1.hook_normalized"]
FINAL_HOOKS = ["ln_final.hook_normalized", "ln_final.hook_scale"]


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    return architectures.build(request.param)


def cache_with(model, hook):
    """A cache of a run in which ``hook`` adds a vector at every position."""
    g = torch.Generator().manual_seed(3)

    def add(activation, hook):
        return activation + torch.randn(activation.shape[-1], generator=g, dtype=torch.float64).abs().to(activation)

    with model.hooks(fwd_hooks=[(hook, add)]):
        return model.run_with_cache(TOKENS)[1]


@torch.no_grad()
@pytest.mark.parametrize(
    "hook", [*STREAM_HOOKS, *(f"blocks.1.{hook}" for hook in SUBLAYER_HOOKS), *FINAL_HOOKS], ids=lambda hook: hook
)
def test_an_edited_run_gives_the_stream_as_it_was_or_is_refused(model, hook):
    if hook not in model.hook_dict:
        pytest.skip("this architecture has no such hook")
    cache = cache_with(model, hook)
    answered = {}
    for site, function in (("mlp", tna.attribute_mlp_neurons), ("attn", tna.attribute_attn_neurons)):
        try:
            answered[site] = function(cache, 5)[0]
        except ValueError as error:
            assert "hook edits activations" in str(error)
    for site, scores in answered.items():
        expected = oracle.neuron_scores(cache, site, [6], [5])[0]
        torch.testing.assert_close(scores.double(), expected, atol=1e-6, rtol=1e-5)


def test_a_float64_batch_padded_on_the_left_is_refused_with_the_cause():
    model = architectures.build("granite")
    _, cache = model.run_with_cache(["w1 w2 w3", "w4 w5 w6 w7 w8 w9"], padding_side="left")
    with pytest.raises(ValueError, match="float64 model attends to NaN where padding on the left"):
        tna.attribute_layers(cache, 5)


def test_a_hook_that_the_architecture_lacks_is_not_blamed_on_names_filter(monkeypatch):
    model = architectures.build("llama")
    _, cache = model.run_with_cache(TOKENS, names_filter=lambda n: n != "blocks.1.hook_resid_post")
    with pytest.raises(ValueError, match=r"cache lacks blocks.1.hook_.*names_filter") as raised:
        tna.attribute_layers(cache, 5)
    assert "architecture" not in str(raised.value)
    known = {name: hook for name, hook in model.hook_dict.items() if not name.endswith("hook_resid_post")}
    monkeypatch.setattr(type(model), "hook_dict", property(lambda self: known))
    with pytest.raises(ValueError, match=r"this architecture has no hook blocks.1.hook_resid_post") as raised:
        tna.attribute_layers(cache, 5)
    assert "names_filter" not in str(raised.value)


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_offloaded_weights_are_refused_by_name(name):
    model = architectures.build(name)
    _, cache = model.run_with_cache(TOKENS)
    own = model.blocks[1].mlp.original_component
    experts = own.experts if name == "mixtral" else own.down_proj.original_component
    attribute = "down_proj" if name == "mixtral" else "weight"
    setattr(experts, attribute, torch.nn.Parameter(getattr(experts, attribute).to("meta")))
    with pytest.raises(ValueError, match=r"layer 1: mlp\..*down_proj.* is offloaded to CPU or disk"):
        tna.value_neurons(cache, 5, 3)


def test_quantised_weights_are_refused_by_name():
    model = architectures.build("llama")
    _, cache = model.run_with_cache(TOKENS)
    linear = model.blocks[2].mlp.original_component.down_proj.original_component
    linear.weight = torch.nn.Parameter(linear.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"layer 2: mlp\..* is quantised .torch.int8."):
        tna.attribute_layers(cache, 5)


def test_a_pattern_over_more_positions_than_the_cache_holds_is_refused():
    """The values have the cache's own length, as where past keys are kept and past values are not."""
    model = architectures.build("llama")
    _, cache = model.run_with_cache(TOKENS)
    name = "blocks.0.attn.hook_pattern"
    longer = torch.nn.functional.pad(cache[name], (2, 0))
    with pytest.raises(ValueError, match="cache holds 7 positions but attends to 9"):
        tna.attribute_heads(ActivationCache(dict(cache.items()) | {name: longer}, model), 5)
