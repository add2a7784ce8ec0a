"""A direction carried back through a head, against what the head writes of any component at any source (paper 3)."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures, oracle
from tl_neuron_attr.model.head_inputs import carried_back
from tl_neuron_attr.model.stream import Stream

LAYER, POS = 1, 4
NAMES = ["gpt2", "llama", "gemma2", "olmo2", "neox_parallel", "granite", "qwen3"]


def random_direction(seed=0):
    return torch.randn(architectures.D_MODEL, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def written(cache, head, source, component):
    """What a head writes at ``POS`` of a component at a source: its pattern and all norms as they were in the run."""
    attn = cache.model.blocks[LAYER].attn
    W_O, W_V = attn.W_O[head].double(), attn.W_V[head // (len(attn.W_O) // len(attn.W_V))].double()
    read = oracle.norm_read(cache, LAYER, "attn", 0, source, component)
    pattern = cache[f"blocks.{LAYER}.attn.hook_pattern"][0, head, POS, source].double()
    return oracle.through_post_norm(cache, LAYER, "attn", 0, POS, pattern * (read @ W_V @ W_O))


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_the_inner_product_with_a_component_is_that_of_what_the_head_writes_of_it(name):
    _, cache = architectures.run(name, batch=1)
    u, g = random_direction(), torch.Generator().manual_seed(1)
    for head in range(architectures.HEADS):
        found = carried_back(Stream(cache), LAYER, head, POS, u)
        assert found.shape == (POS + 1, architectures.D_MODEL)
        for source in range(POS + 1):
            component = torch.randn(architectures.D_MODEL, generator=g, dtype=torch.float64)
            expected = float(u @ written(cache, head, source, component))
            assert float(found[source] @ component) == pytest.approx(expected, abs=1e-6, rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_no_head_means_all_heads_together(name):
    stream, u = Stream(architectures.run(name, batch=1)[1]), random_direction()
    by_head = sum(carried_back(stream, LAYER, head, POS, u) for head in range(architectures.HEADS))
    torch.testing.assert_close(carried_back(stream, LAYER, None, POS, u), by_head)
    assert float(by_head.abs().max()) > 0


@torch.no_grad()
def test_the_streams_at_all_sources_give_what_attention_wrote():
    """Llama has no biases: the whole streams are all the components, and their parts are all that attention wrote."""
    _, cache = architectures.run("llama", batch=1)
    u = random_direction()
    found = carried_back(Stream(cache), LAYER, None, POS, u)
    streams = cache[f"blocks.{LAYER}.hook_resid_pre"][0, : POS + 1].double()
    wrote = cache[f"blocks.{LAYER}.hook_attn_out"][0, POS].double()
    assert float((found * streams).sum()) == pytest.approx(float(u @ wrote), abs=1e-5)


@torch.no_grad()
def test_a_head_that_was_zeroed_carries_nothing_back():
    model, u = architectures.build("llama"), random_direction()
    with tna.ablate(model, [(LAYER, 2)]):
        _, cache = model.run_with_cache(architectures.prompts(1))
    stream = Stream(cache)
    assert float(carried_back(stream, LAYER, 2, POS, u).abs().max()) == 0
    assert float(carried_back(stream, LAYER, 1, POS, u).abs().max()) > 0


@torch.no_grad()
@pytest.mark.parametrize("weight", ["W_V", "W_O"])
def test_weights_changed_since_the_run_are_refused(weight):
    model = architectures.build("llama")
    _, cache = model.run_with_cache(architectures.prompts(1))
    getattr(model.blocks[LAYER].attn, weight).mul_(1.5)
    with pytest.raises(ValueError):
        carried_back(Stream(cache), LAYER, 0, POS, random_direction())
