import pytest
import torch

from tests import architectures
from tl_neuron_attr.model.unembedding import unembedding


@pytest.mark.parametrize("name, multiplier, capped", [("cohere", 0.5, False), ("granite", 0.5, False),
                                                      ("llama", 1.0, False), ("gemma2", 1.0, True)])  # fmt: skip
def test_a_linear_output_transform_is_a_multiplier_and_a_cap_a_function(name, multiplier, capped):
    found = unembedding(architectures.build(name), torch.float64)
    assert found.multiplier == multiplier and (found.transform is not None) == capped
