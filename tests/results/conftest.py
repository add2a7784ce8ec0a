import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures


@pytest.fixture(scope="session")
def batch():
    """Six neurons for each of two prompts."""
    _, cache = architectures.run("gpt2", dtype=torch.float32)
    return tna.value_neurons(cache, 5, 6)


@pytest.fixture
def one(batch):
    return batch[0]
