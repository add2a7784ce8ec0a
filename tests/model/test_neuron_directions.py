"""Directions of neurons against what they wrote in a run, and heads against their own matrices."""

import pytest
import torch

from tests import architectures, oracle
from tl_neuron_attr.model.neuron_directions import directions_of, through_head


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "olmo2"])
def test_a_direction_is_that_of_what_the_neuron_wrote(name):
    model = architectures.build(name)
    _, cache = model.run_with_cache(architectures.prompts())
    for site, head in (("mlp", -1), ("attn", 3)):
        wrote = oracle.writes(cache, 1, site, 0, -1)
        wrote = wrote[7] if site == "mlp" else wrote[head, 0, 7]
        (found,) = directions_of(model, [(site, 1, head, 7)])
        assert abs(float(torch.cosine_similarity(found.double(), wrote, dim=0))) == pytest.approx(1, abs=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "olmo2", "falcon"])
def test_a_head_moves_vectors_by_its_own_matrices(name):
    model, vector = architectures.build(name), torch.randn(32, dtype=torch.float64)
    block, head = model.blocks[1], 2
    read = vector
    if hasattr(block, "ln1"):
        read = vector if block.ln1.uses_rms_norm else vector - vector.mean()
        read = read * (block.ln1.w + (1 if block.ln1.uses_weight_offset else 0))
    moved = read @ block.attn.W_V[head // (4 // len(block.attn.W_V))] @ block.attn.W_O[head]
    if hasattr(block, "ln1_post"):
        moved = moved * (block.ln1_post.w + (1 if block.ln1_post.uses_weight_offset else 0))
    torch.testing.assert_close(through_head(model, vector, 1, head), moved)


@pytest.mark.parametrize("layer, head, message", [
    (3, 0, "layer must lie between 0 and 2, got 3"),
    (-1, None, "layer must lie between 0 and 2, got -1"),
    (1, 4, "head must lie between 0 and 3, got 4"),
    (1, -1, "head must lie between 0 and 3, got -1"),
])  # fmt: skip
def test_layers_and_heads_out_of_range_are_named(layer, head, message):
    with pytest.raises(IndexError, match=message):
        through_head(architectures.build("llama"), torch.zeros(32, dtype=torch.float64), layer, head)
