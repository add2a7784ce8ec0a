import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.model.stream_keys import embeddings, stream_keys


@torch.no_grad()
@pytest.mark.parametrize("name, centred", [("gpt2", True), ("llama", False), ("olmo2", None)])
def test_a_key_gives_the_neurons_pre_activation_in_the_stream(name, centred):
    """Held to the cache: with the norm's scale and the biases, the product with the stream is ``hook_pre``."""
    model = architectures.build(name)
    _, cache = model.run_with_cache(architectures.prompts(1))
    value = tna.value_neurons(cache, 5, 4, sites=("mlp",))[0]
    keys = stream_keys(model, value)
    assert keys.centred is centred
    for key, layer, index in zip(keys.vectors, value.layer.tolist(), value.index.tolist(), strict=True):
        block = f"blocks.{layer}"
        read = cache[f"{block}.hook_resid_mid"][0]
        scale = 1 if centred is None else cache[f"{block}.ln2.hook_scale"][0, :, 0]
        of_key = read @ key / scale
        cached = cache[f"{block}.mlp.hook_pre"][0, :, index]
        assert torch.allclose(of_key - of_key[0], cached - cached[0], atol=1e-9)  # biases are common to all positions


def test_embeddings_narrower_than_the_stream_are_refused():
    class Narrow:
        W_E, W_U = torch.zeros(5, 2), torch.zeros(4, 5)

    with pytest.raises(ValueError, match="projects them into a wider stream; top_tokens"):
        embeddings(Narrow())
