"""What neurons wrote, against the oracle: coefficient times direction, one neuron at a time."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures, oracle
from tl_neuron_attr.model.neuron_writes import neuron_writes


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
@pytest.mark.filterwarnings("ignore:the model caps its logits")
def test_each_neuron_wrote_coefficient_times_direction(name):
    model = architectures.build(name)
    _, cache = model.run_with_cache(architectures.prompts())
    q = tna.scored(cache, 5, pos=4)
    neurons = tna.value_neurons(q, k=20)
    rows = torch.arange(2).repeat_interleave(20)
    seen = []
    for wrote in neuron_writes(q.stream, q.places, neurons, rows):
        for i, vector in zip(wrote.which.tolist(), wrote.vectors, strict=True):
            head, source, index = (int(getattr(neurons, column).flatten()[i]) for column in ("head", "source", "index"))
            expected = oracle.writes(cache, wrote.layer, wrote.site, int(rows[i]), 4)
            expected = expected[(head, source, index) if wrote.site == "attn" else index]
            torch.testing.assert_close(vector.double(), expected.detach(), atol=1e-5, rtol=0)
            seen.append(i)
    assert sorted(seen) == list(range(40))
