"""The control of an adapter: as large as it, and nothing else of it."""

import torch

from tests import architectures
from tl_neuron_attr import cna
from tl_neuron_attr.cna import Case
from tl_neuron_attr.cna.random_adapter import random_adapter

CASES = [Case(tuple(row.tolist()), 5 + i) for i, row in enumerate(architectures.prompts(2))]


def test_every_matrix_changes_by_as_much_in_another_direction():
    model = architectures.build("llama")
    adapter = cna.train_lora(model, CASES, layer=1, rank=3, learning_rate=1e-2, epochs=3, progress=False)
    drawn, again, other = (random_adapter(adapter, seed) for seed in (0, 0, 1))
    for name in "qkvo":
        mine, its = adapter.change(name), drawn.change(name)
        torch.testing.assert_close(its.norm(), mine.norm())
        assert int(torch.linalg.matrix_rank(its)) == 3
        assert abs(float(torch.cosine_similarity(mine.flatten(), its.flatten(), dim=0))) < 0.3
    assert drawn == again and drawn != other
    assert (drawn.layer, drawn.rank, drawn.losses) == (1, 3, ())
