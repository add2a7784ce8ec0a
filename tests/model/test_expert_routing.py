"""Routing that no hook shows, against what the experts of the model were given in its run."""

import pytest
import torch

from tests import architectures, oracle
from tl_neuron_attr.model.expert_routing import routed_again
from tl_neuron_attr.model.stream import Stream

LAYER = 2


@torch.no_grad()
@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v3", "ernie4_5_moe", "afmoe"])
def test_the_routing_is_what_the_experts_were_given(name):
    model = architectures.build(name)
    given = []
    experts = oracle.unwrapped(model.blocks[LAYER].mlp.original_component.experts)
    handle = experts.register_forward_pre_hook(lambda _, inputs: given.append(inputs[1:]))
    _, cache = model.run_with_cache(architectures.prompts())
    handle.remove()
    expected = torch.zeros(14, 4, dtype=torch.float64)
    for token, (indices, weights) in enumerate(zip(*given[0], strict=True)):
        for expert, weight in zip(indices.tolist(), weights.tolist(), strict=True):
            expected[token, expert] = weight
    assert torch.equal(Stream(cache).routing_everywhere(LAYER).flatten(0, 1), expected)


@torch.no_grad()
def test_llama_4s_experts_read_the_stream_times_their_weight():
    model = architectures.build("llama4")
    given = []
    experts = oracle.unwrapped(model.blocks[LAYER].mlp.original_component.experts)
    handle = experts.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    _, cache = model.run_with_cache(architectures.prompts())
    handle.remove()
    routing = Stream(cache).routing_everywhere(LAYER).flatten(0, 1)
    read = cache[f"blocks.{LAYER}.mlp.hook_in"].flatten(0, 1)
    expected = torch.cat([read * routing[:, e, None] for e in range(4)])
    assert torch.equal(given[0], expected) and ((routing != 0).sum(1) == 2).all()


@torch.no_grad()
@pytest.mark.parametrize("name", ["mixtral", "olmoe", "glm4_moe"])
def test_a_router_that_hooks_show_gives_the_same_when_run_again(name):
    model = architectures.build(name)
    _, cache = model.run_with_cache(architectures.prompts())
    mixture = model.blocks[LAYER].mlp.original_component
    modules = dict(mixture.named_children())
    shared = "shared_experts" if name == "glm4_moe" else None
    again = routed_again(mixture, "experts", shared, cache[f"blocks.{LAYER}.mlp.hook_in"])
    torch.testing.assert_close(again.double(), Stream(cache).routing_everywhere(LAYER).flatten(0, 1), atol=1e-7, rtol=0)
    assert dict(mixture.named_children()) == modules  # the model's own experts are in their place


class Unweighed(torch.nn.Module):
    """A mixture that averages its experts without saying which it chose."""

    def __init__(self):
        super().__init__()
        self.experts = torch.nn.Module()
        self.experts.down_proj = torch.zeros(4, 20, 32)

    def forward(self, read):
        return read

    def router(self, read):
        return (read.mean(1),)


def test_a_mixture_that_does_not_say_what_it_chose_is_refused():
    with pytest.raises(ValueError, match="Unweighed does not say which experts it chose"):
        routed_again(Unweighed(), "experts", None, torch.zeros(1, 3, 32))
