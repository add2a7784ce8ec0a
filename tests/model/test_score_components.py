import pytest
import torch

from tests import architectures
from tl_neuron_attr.model.positions import Positions
from tl_neuron_attr.model.score_components import score_components
from tl_neuron_attr.model.stream import Stream


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "gemma3"])
@pytest.mark.parametrize("side", ["q", "k"])
def test_components_sum_to_the_cached_vector(name, side):
    _, cache = architectures.run(name)
    stream, places = Stream(cache), Positions(torch.tensor([0, 1]), torch.tensor([2, 4]))
    names, components, vector = score_components(stream, side, 2, 3, places, heads=True)
    assert names[0] == "embed" and names[-1] == "bias" and "L1H3" in names and "L0 mlp" in names
    assert len(names) == len(components)
    assert torch.allclose(components.sum(0), vector, atol=1e-6)


def test_the_first_layer_reads_the_embedding_alone():
    _, cache = architectures.run("llama")
    stream = Stream(cache)
    names, _, _ = score_components(stream, "q", 0, 0, stream.last, heads=False)
    assert names == ("embed", "bias")
