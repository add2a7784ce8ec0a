"""Every row of the table of faults: the message names the argument, what it was, and the fix."""

import pytest
import torch
from transformer_lens import ActivationCache

import tl_neuron_attr as tna
from tests import architectures


@pytest.fixture(scope="module")
def model():
    return architectures.build("gpt2", dtype=torch.float32)


@pytest.fixture
def cache(model):
    return model.run_with_cache(architectures.prompts())[1]


def edited(cache, name, change):
    """The cache with one tensor changed."""
    tensors = dict(cache.items()) | {name: change(cache[name].clone())}
    return ActivationCache(tensors, cache.model)


def test_a_missing_hook_is_named_with_the_filter_that_would_do(model):
    _, cache = model.run_with_cache(architectures.prompts(), names_filter=lambda n: "resid" in n or "scale" in n)
    with pytest.raises(ValueError, match=r"lacks blocks.0.hook_attn_out.*names_filter=lambda name: name.endswith\("):
        tna.value_neurons(cache, 5)


def test_the_suggested_filter_does(model):
    suffixes = None
    try:
        tna.value_neurons(model.run_with_cache(architectures.prompts(), names_filter=lambda n: "embed" in n)[1], 5)
    except ValueError as error:
        suffixes = eval(str(error).split("endswith(")[1].rstrip(")") + ")")
    _, cache = model.run_with_cache(architectures.prompts(), names_filter=lambda n: n.endswith(suffixes))
    assert len(tna.value_neurons(cache, 5, 3)) == 3


def test_a_cache_stopped_early_is_refused(model):
    _, cache = model.run_with_cache(architectures.prompts(), stop_at_layer=2)
    with pytest.raises(ValueError, match=r"lacks ln_final\.hook_scale"):
        tna.attribute_layers(cache, 5)


def test_a_cache_of_one_position_is_refused(model):
    _, cache = model.run_with_cache(architectures.prompts(), pos_slice=-1)
    with pytest.raises(ValueError, match="holds 1 positions but attends to 7"):
        tna.attribute_heads(cache, 5)


def test_something_else_than_a_cache_is_refused(cache):
    with pytest.raises(Exception, match="cache"):
        tna.attribute_layers(dict(cache.items()), 5)


def test_sublayers_that_do_not_add_up_are_refused(cache):
    broken = edited(cache, "blocks.1.hook_mlp_out", lambda t: t * 1.5)
    with pytest.raises(ValueError, match=r"hooks are not additive \(layer 1: resid_pre"):
        tna.attribute_layers(broken, 5)


def test_a_stream_that_does_not_read_out_to_the_logits_is_refused(cache):
    broken = edited(cache, "unembed.hook_out", lambda t: t + 0.3)
    with pytest.raises(ValueError, match="not the model's logits"):
        tna.attribute_layers(broken, 5)


@pytest.mark.parametrize("hook, site", [("mlp.hook_post", "mlp"), ("attn.hook_v", "attn")])
def test_neurons_that_do_not_sum_to_their_sublayer_are_refused(cache, hook, site):
    broken = edited(cache, f"blocks.2.{hook}", lambda t: t * 2)
    for function in (tna.value_neurons, tna.attribute_mlp_neurons if site == "mlp" else tna.attribute_attn_neurons):
        with pytest.raises(ValueError, match=f"layer 2: the {site} neurons and biases do not sum"):
            function(broken, 5)


@pytest.mark.parametrize(
    "target, error, message",
    [
        ("w1 w2", ValueError, r"target='w1 w2' must be one token, it is 2: \['w1', 'w2'\]"),
        ("", ValueError, "target='' must be one token, it is 0"),
        ("xyzzy", ValueError, "target='xyzzy' is not in the model's vocabulary"),
        (97, IndexError, "between 0 and 96, got 97"),
        (-1, IndexError, "between 0 and 96, got -1"),
        (torch.tensor([1, 2, 3]), ValueError, "one token per prompt: 2 prompts, got 3"),
        ([5], ValueError, "one token per prompt: 2 prompts, got 1"),
    ],
)
def test_bad_targets(cache, target, error, message):
    for function in (tna.attribute_layers, tna.value_neurons):
        with pytest.raises(error, match=message):
            function(cache, target)
    with pytest.raises(error, match=message.replace("target", "contrast")):
        tna.attribute_heads(cache, 5, contrast=target)


@pytest.mark.parametrize("pos, error", [(7, IndexError), (-8, IndexError), (torch.tensor([1, 2, 3]), ValueError)])
def test_bad_positions(cache, pos, error):
    with pytest.raises(error, match="pos must"):
        tna.attribute_mlp_neurons(cache, 5, pos=pos)


@pytest.mark.parametrize("layers", [[3], [-1], [0, 0]])
def test_bad_layers(cache, layers):
    with pytest.raises(IndexError, match="layers"):
        tna.attribute_mlp_neurons(cache, 5, layers=layers)


@pytest.mark.parametrize("k", [0, -1, 10_000])
def test_bad_k(cache, k):
    with pytest.raises(ValueError, match="k must be between 1 and the 912 neurons of attn/mlp"):
        tna.value_neurons(cache, 5, k)


@pytest.mark.parametrize("sites", [(), ("mlp", "mlp"), ("ffn",), "ffn"])
def test_bad_sites(cache, sites):
    with pytest.raises(Exception, match="sites"):
        tna.value_neurons(cache, 5, sites=sites)


@pytest.mark.parametrize("site", ["mlp", "attn"])
def test_one_site_may_be_given_by_itself(cache, site):
    assert tna.value_neurons(cache, 5, 4, sites=site).labels == tna.value_neurons(cache, 5, 4, sites=[site]).labels


@pytest.mark.parametrize("function", [tna.attribute_mlp_neurons, tna.attribute_attn_neurons])
def test_no_layers_are_refused(cache, function):
    with pytest.raises(ValueError, match="layers is empty"):
        function(cache, 5, layers=[])


def test_a_mixture_whose_experts_cannot_be_read_has_no_mlp_neurons():
    _, cache = architectures.run("mixtral")
    for block in cache.model.blocks:
        block.mlp.original_component.experts.has_post_expert_norm = True
    for function in (tna.attribute_mlp_neurons, tna.value_neurons):
        with pytest.raises(ValueError, match=r"layers \[0, 1, 2\] have no MLP neurons"):
            function(cache, 5)
    assert len(tna.value_neurons(cache, 5, 4, sites=("attn",))) == 4


@pytest.mark.parametrize("hook", ["mlp.hook_post", "attn.hook_v", "hook_attn_out"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_broken_activation_is_named(cache, hook, value):
    def spoil(tensor):
        tensor.flatten()[-1] = value
        return tensor

    with pytest.raises(ValueError, match=f"blocks.1.{hook} holds NaN or Inf"):
        tna.value_neurons(edited(cache, f"blocks.1.{hook}", spoil), 5)


def test_a_broken_weight_is_named():
    model = architectures.build("gpt2", dtype=torch.float32)
    _, cache = model.run_with_cache(architectures.prompts())
    with torch.no_grad():
        model.blocks[2].mlp.W_out[7, 3] = torch.nan
    with pytest.raises(ValueError, match=r"blocks.2.mlp.W_out holds NaN or Inf"):
        tna.attribute_mlp_neurons(cache, 5)


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox_parallel"])
def test_positions_on_padding_are_refused(name):
    model = architectures.build(name, dtype=torch.float32)
    texts = ["w1 w2 w3", "w4 w5 w6 w7 w8 w9"]
    _, right = model.run_with_cache(texts)
    with pytest.raises(ValueError, match=r"pos is on padding for prompts \[0\]"):
        tna.attribute_layers(right, 5, pos=right["embed.hook_in"].shape[1] - 1)
    _, left = model.run_with_cache(texts, padding_side="left")
    with pytest.raises(ValueError, match=r"pos is on padding for prompts \[0\]"):
        tna.attribute_heads(left, 5, pos=1)
    tna.attribute_heads(left, 5)


def test_a_string_target_needs_a_tokenizer():
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    config = TransformerBridgeConfig(
        d_model=16, n_layers=1, n_heads=2, d_head=8, d_mlp=20, n_ctx=16, d_vocab=30, act_fn="gelu",
        architecture="TransformerLensNative", normalization_type="LN",
    )  # fmt: skip
    model = TransformerBridge.boot_native(config)
    _, cache = model.run_with_cache(torch.arange(5)[None])
    with pytest.raises(ValueError, match="no tokenizer"):
        tna.attribute_layers(cache, "cat")
    assert "L0N" in str(tna.value_neurons(cache, 3, 2, sites=("mlp",)))
