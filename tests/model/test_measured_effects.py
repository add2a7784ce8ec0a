"""Runs without neurons against whole runs with the model's own hooks, one at a time."""

import pytest
import torch

from tests import architectures
from tl_neuron_attr.model.answer_runs import AnswerRuns
from tl_neuron_attr.model.measured_effects import NeuronRemoval, log_probs_without

TARGET = 5


def followed(model, tokens, pos):
    return AnswerRuns.of(model, tokens, TARGET, at=torch.tensor([pos]))


def by_hooks(model, tokens, pos, hooks):
    with torch.no_grad():
        return model.run_with_hooks(tokens, fwd_hooks=hooks)[0, pos].log_softmax(-1)[TARGET]


def zero(*at):
    def set_zero(value, hook):
        value = value.clone()
        value[at] = 0
        return value

    return set_zero


@pytest.mark.parametrize("name", architectures.DENSE)
def test_each_removal_is_a_whole_run_with_a_hook(name):
    model = architectures.build(name)
    tokens, pos = architectures.prompts()[:1], architectures.prompts().shape[1] - 1
    everything = slice(None)
    _, cache = model.run_with_cache(tokens)
    layer, head, source, index = 2, 3, 1, 5
    kv = head * cache[f"blocks.{layer}.attn.hook_v"].shape[2] // model.blocks[layer].attn.W_O.shape[0]
    write = (
        cache[f"blocks.{layer}.attn.hook_pattern"][0, head, pos, source]
        * (cache[f"blocks.{layer}.attn.hook_v"][0, source, kv, index])
    )

    def without_source(z, hook):
        z = z.clone()
        z[0, pos, head, index] -= write
        return z

    sets = {
        "an MLP neuron": (
            [NeuronRemoval("mlp", 1, -1, -1, 7, 0.0)],
            [("blocks.1.mlp.hook_post", zero(0, everything, 7))],
        ),
        "an attention neuron": (
            [NeuronRemoval("attn", 0, 2, -1, 4, 0.0)],
            [("blocks.0.attn.hook_z", zero(0, everything, 2, 4))],
        ),
        "one source of it": (
            [NeuronRemoval("attn", layer, head, source, index, float(write))],
            [(f"blocks.{layer}.attn.hook_z", without_source)],
        ),
        "two together": (
            [NeuronRemoval("mlp", 2, -1, -1, 3, 0.0), NeuronRemoval("mlp", 0, -1, -1, 9, 0.0)],
            [
                ("blocks.2.mlp.hook_post", zero(0, everything, 3)),
                ("blocks.0.mlp.hook_post", zero(0, everything, 9)),
            ],
        ),
        "nothing": ([], []),
    }
    base, found = log_probs_without(model, followed(model, tokens, pos), [removals for removals, _ in sets.values()])
    expected = torch.stack([by_hooks(model, tokens, pos, hooks) for _, hooks in sets.values()])
    assert torch.allclose(base, by_hooks(model, tokens, pos, []), atol=1e-5)
    assert torch.allclose(found, expected, atol=2e-5), dict(zip(sets, (found - expected).tolist(), strict=True))


def test_the_first_source_is_a_source():
    model = architectures.build("llama")
    tokens, pos = architectures.prompts()[:1], architectures.prompts().shape[1] - 1

    def less(z, hook):
        z = z.clone()
        z[0, pos, 1, 2] -= 0.7
        return z

    _, found = log_probs_without(model, followed(model, tokens, pos), [[NeuronRemoval("attn", 2, 1, 0, 2, 0.7)]])
    assert torch.allclose(found[0], by_hooks(model, tokens, pos, [("blocks.2.attn.hook_z", less)]), atol=1e-5)


def test_all_neurons_of_a_sublayer_are_the_sublayer():
    model = architectures.build("llama")
    tokens, pos = architectures.prompts()[:1], architectures.prompts().shape[1] - 1
    removals = [NeuronRemoval("mlp", 1, -1, -1, i, 0.0) for i in range(model.blocks[1].mlp.W_out.shape[0])]
    _, found = log_probs_without(model, followed(model, tokens, pos), [removals])
    whole = by_hooks(model, tokens, pos, [("blocks.1.hook_mlp_out", lambda out, hook: torch.zeros_like(out))])
    assert torch.allclose(found[0], whole, atol=1e-5)


def test_a_small_working_set_changes_nothing():
    model = architectures.build("gpt2")
    tokens, pos = architectures.prompts()[:1], architectures.prompts().shape[1] - 1
    sets = [[NeuronRemoval("mlp", layer, -1, -1, i, 0.0)] for layer in (2, 0, 1) for i in range(4)]
    _, at_once = log_probs_without(model, followed(model, tokens, pos), sets)
    _, one_by_one = log_probs_without(model, followed(model, tokens, pos), sets, max_bytes=1)
    assert torch.allclose(at_once, one_by_one, atol=1e-5)
