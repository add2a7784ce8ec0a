"""The output projection by head: a live view, whatever the size of a head is."""

import pytest
import torch

from tests import architectures, oracle
from tl_neuron_attr.model.head_projections import output_projection


@pytest.mark.parametrize("name", ["gpt2", "llama_head_dim", "deepseek_v2"])
def test_heads_write_together_what_the_projection_writes(name):
    attn = architectures.build(name).blocks[1].attn
    found = output_projection(attn)
    linear = oracle.unwrapped(attn.o)
    z = torch.randn(found.shape[:2], dtype=torch.float64)
    bias = 0 if linear.bias is None else linear.bias
    torch.testing.assert_close(torch.einsum("hd,hde->e", z, found), linear(z.flatten()) - bias)
    assert found.untyped_storage().data_ptr() == linear.weight.untyped_storage().data_ptr()


def test_a_block_without_softmax_attention_has_none():
    assert output_projection(None) is None
    assert output_projection(getattr(architectures.build("lfm2").blocks[0], "attn", None)) is None
