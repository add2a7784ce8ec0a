"""Sizes are those of the weights, whatever a config says."""

import pytest
import torch

from tests import architectures
from tl_neuron_attr.model import dimensions


@pytest.mark.parametrize("name", list(architectures.BUILDERS))
def test_sizes_are_those_of_what_the_model_computes(name):
    model = architectures.build(name)
    logits, cache = model.run_with_cache(architectures.prompts())
    assert dimensions.d_vocab(model) == logits.shape[-1] == architectures.VOCAB
    assert dimensions.d_model(model) == cache["blocks.0.hook_resid_pre"].shape[-1]
    assert (dimensions.n_heads(model, 1), dimensions.d_head(model, 1)) == cache["blocks.1.attn.hook_z"].shape[2:]
    assert dimensions.dtype_of(model) == torch.float64 and dimensions.device_of(model) == logits.device
    assert dimensions.width(model, "attn", 1) == tuple(cache["blocks.1.attn.hook_z"].shape[2:])
    if name != "mixtral":
        assert dimensions.width(model, "mlp", 1) == cache["blocks.1.mlp.hook_post"].shape[-1]


def test_all_neurons_of_all_experts_count():
    model = architectures.build("qwen2_moe")
    assert [dimensions.d_mlp(model, layer) for layer in range(3)] == [4 * 20 + 24, 80, 4 * 20 + 24]


def unreadable():
    """A mixture with a norm behind its experts."""
    model = architectures.build("mixtral")
    model.blocks[1].mlp.original_component.experts.has_post_expert_norm = True
    return model


@pytest.mark.parametrize("model", [unreadable(), architectures.native(attn_only=True)])
def test_layers_without_mlp_neurons_are_named(model):
    with pytest.raises(ValueError, match=r"layer 1 has no MLP neurons .a mixture whose experts cannot be read, or"):
        dimensions.d_mlp(model, 1)


def test_only_dense_layers_have_a_hook_for_single_neurons():
    model = architectures.build("qwen2_moe")
    assert dimensions.post_hook(model, 1) == "blocks.1.mlp.hook_post"
    with pytest.raises(ValueError, match="layer 2 is a mixture of experts, whose neurons have no hook of their own"):
        dimensions.post_hook(model, 2)
