"""Hook points exist in the model under their names, and hold what the names say."""

import pytest
import torch

from tests import architectures
from tl_neuron_attr.model import hook_points
from tl_neuron_attr.model.stream import Stream


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox_parallel", "gemma3"])
def test_every_name_is_a_hook_of_the_model(name):
    model = architectures.build(name)
    named = (hook_points.resid_pre_hook, hook_points.resid_post_hook, hook_points.pattern_hook)
    every = {hook(layer) for hook in (*named, hook_points.mlp_post_hook) for layer in range(architectures.LAYERS)}
    tokens = architectures.prompts(1)
    _, cache = model.run_with_cache(tokens, names_filter=lambda hook: hook in every | {hook_points.TOKENS})
    assert set(cache) == every | {hook_points.TOKENS}
    assert torch.equal(cache[hook_points.TOKENS], tokens)
    assert torch.equal(cache[hook_points.resid_post_hook(0)], cache[hook_points.resid_pre_hook(1)])


def test_a_stream_reads_tokens_and_patterns_from_their_hooks_alone():
    model, tokens = architectures.build("llama"), architectures.prompts(2)
    _, cache = model.run_with_cache(tokens, names_filter=hook_points.hooks_of_patterns([1]))
    stream = Stream(cache, model)
    assert torch.equal(stream.tokens(), tokens)
    rows = stream.pattern(1).sum(-1)
    torch.testing.assert_close(rows, torch.ones_like(rows))
    with pytest.raises(KeyError):
        stream.pattern(0)
