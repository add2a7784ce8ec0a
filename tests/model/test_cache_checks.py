"""A cache made while a hook edited activations gives the numbers of the stream as it was, or is refused by name."""

import pytest
import torch

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


@torch.no_grad()
def test_a_block_that_does_not_add_up_is_refused_as_not_additive():
    model = architectures.build("llama")
    _, cache = model.run_with_cache(TOKENS)
    broken = changed(model, cache, "blocks.1.hook_mlp_out", 2 * cache["blocks.1.hook_mlp_out"])
    with pytest.raises(ValueError, match=r"hooks are not additive .layer 1: resid_pre"):
        tna.attribute_layers(broken, 5)


def changed(model, cache, name, value):
    from transformer_lens import ActivationCache

    return ActivationCache(dict(cache.items()) | {name: value}, model)


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


def test_a_float64_batch_padded_on_the_left_is_refused_with_the_cause():
    model = architectures.build("granite")
    _, cache = model.run_with_cache(["w1 w2 w3", "w4 w5 w6 w7 w8 w9"], padding_side="left")
    with pytest.raises(ValueError, match="float64 model attends to NaN where padding on the left"):
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
