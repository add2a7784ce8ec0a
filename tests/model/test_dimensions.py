"""Sizes are those of the weights, whatever a config says."""

import pytest
import torch

from tests import architectures
from tl_neuron_attr.model import dimensions


@pytest.mark.parametrize("name", list(architectures.BUILDERS))
def test_sizes_are_those_of_what_the_model_computes(name):
    dtype = torch.float32 if name == "mixtral" else torch.float64
    model = architectures.build(name, dtype=dtype)
    logits, cache = model.run_with_cache(architectures.prompts())
    assert dimensions.d_vocab(model) == logits.shape[-1] == architectures.VOCAB
    assert dimensions.d_model(model) == cache["blocks.0.hook_resid_pre"].shape[-1]
    assert (dimensions.n_heads(model, 1), dimensions.d_head(model, 1)) == cache["blocks.1.attn.hook_z"].shape[2:]
    assert dimensions.dtype_of(model) == dtype and dimensions.device_of(model) == logits.device
    assert dimensions.width(model, "attn", 1) == tuple(cache["blocks.1.attn.hook_z"].shape[2:])
    if name != "mixtral":
        assert dimensions.width(model, "mlp", 1) == cache["blocks.1.mlp.hook_post"].shape[-1]


@pytest.mark.parametrize(
    "model", [architectures.build("mixtral", dtype=torch.float32), architectures.native(attn_only=True)]
)
def test_layers_without_mlp_neurons_are_named(model):
    with pytest.raises(ValueError, match=r"layer 1 has no MLP neurons .mixture of experts, or attention only"):
        dimensions.d_mlp(model, 1)
