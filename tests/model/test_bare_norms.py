"""The scale of a norm without a hook on it is what its module divides by."""

import torch

from tests import architectures
from tl_neuron_attr.model.bare_norms import bare_eps, root_mean_square


@torch.no_grad()
def test_the_scale_is_what_the_module_divides_by():
    norm = architectures.build("gemma4").blocks[1].ln2
    read = torch.randn(5, architectures.D_MODEL, dtype=torch.float64)
    expected = norm.original_component(read)
    got = read / root_mean_square(read, bare_eps(norm)) * norm.weight
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)  # transformers computes it in float32
    assert root_mean_square(read.bfloat16(), 1e-6).dtype == torch.float32


def test_only_a_norm_without_a_hook_on_its_scale_is_bare():
    gemma4, llama, gpt2 = (architectures.build(name) for name in ("gemma4", "llama", "gpt2"))
    assert bare_eps(gemma4.ln_final) == 1e-6
    others = [llama.ln_final, gpt2.ln_final, llama.blocks[0].mlp, None]
    assert [bare_eps(module) for module in others] == [None] * 4
