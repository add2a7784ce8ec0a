"""Activations alone against the cache of a whole run."""

import pytest
import torch

from tl_neuron_attr import demo
from tl_neuron_attr.model.mlp_activations import mlp_activations


def test_they_are_those_of_a_whole_run():
    model = demo.load()
    tokens = model.to_tokens(["3 + 5 =", "3 - 1 ="])
    _, cache = model.run_with_cache(tokens)
    for layer, found in enumerate(mlp_activations(model, tokens)):
        assert torch.equal(found, cache[f"blocks.{layer}.mlp.hook_post"])


def test_a_model_without_neurons_is_refused():
    class Empty:
        cfg = type("cfg", (), {"n_layers": 1})

        def run_with_cache(self, tokens, **_):
            return None, {}

    with pytest.raises(ValueError, match=r"no MLP neurons at blocks\.0\.mlp\.hook_post"):
        mlp_activations(Empty(), torch.zeros(1, 2, dtype=torch.long))
