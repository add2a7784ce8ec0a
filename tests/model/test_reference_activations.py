"""What stands in for an MLP neuron: its mean over prompts, or one of its own activations drawn for it."""

import pytest
import torch

from tests import architectures
from tl_neuron_attr.model.answer_runs import AnswerRuns
from tl_neuron_attr.model.reference_activations import mean_activation, resampled_activation, source_values

PROMPTS = [architectures.prompts(1, length, seed=length)[0] for length in (3, 7, 5)]
LAYER, INDEX = torch.tensor([2, 0, 2, 1]), torch.tensor([5, 79, 0, 5])


@pytest.fixture(scope="module")
def model():
    return architectures.build("llama")


@pytest.fixture(scope="module")
def activations(model):
    """Of each neuron, its activations at all positions of all prompts: what ``down_proj`` of transformers reads."""
    read = {i: [] for i in range(architectures.LAYERS)}
    hooks = [
        layer.mlp.down_proj.register_forward_pre_hook(lambda _, args, i=i: read[i].append(args[0][0].detach()))
        for i, layer in enumerate(model.original_model.model.layers)
    ]
    with torch.no_grad():
        for ids in PROMPTS:
            model(ids[None])
    for hook in hooks:
        hook.remove()
    return [torch.cat(read[la])[:, i].tolist() for la, i in zip(LAYER.tolist(), INDEX.tolist(), strict=True)]


def test_the_mean_is_over_all_positions_of_all_prompts(model, activations):
    found = mean_activation(model, PROMPTS, LAYER, INDEX, 0)
    assert found.tolist() == pytest.approx([sum(values) / 15 for values in activations])
    assert torch.equal(found, mean_activation(model, PROMPTS, LAYER, INDEX, 1)), "nothing is drawn"


def test_a_longer_prompt_weighs_more(model):
    apart = torch.stack([mean_activation(model, [ids], LAYER, INDEX, 0) for ids in PROMPTS])
    weights = torch.tensor([[3.0], [7.0], [5.0]], dtype=apart.dtype) / 15
    torch.testing.assert_close(mean_activation(model, PROMPTS, LAYER, INDEX, 0), (weights * apart).sum(0))


def test_a_draw_is_one_of_the_neurons_own_activations_and_the_same_with_a_seed(model, activations):
    found = resampled_activation(model, PROMPTS, LAYER, INDEX, 3)
    assert torch.equal(found, resampled_activation(model, PROMPTS, LAYER, INDEX, 3))
    for value, mine in zip(found.tolist(), activations, strict=True):
        assert min(abs(value - each) for each in mine) < 1e-9


def test_every_position_is_drawn_and_each_neuron_by_itself(model, activations):
    copies = torch.zeros(600, dtype=torch.long)
    found = resampled_activation(model, PROMPTS, copies + 2, copies + 5, 0)
    counts = [int(((found - each).abs() < 1e-9).sum()) for each in activations[0]]
    assert sum(counts) == 600
    assert min(counts) > 15, "of 600 draws among 15 positions, 40 are expected of each, give or take 6"


@torch.no_grad()
@pytest.mark.parametrize("name, layer", [("llama", 0), ("qwen3_next", 1)])
def test_a_value_that_is_zero_is_replaced_too(name, layer):
    """The neuron carries nothing; the mean in its place carries attention (and gate) times the mean."""
    model = architectures.build(name)
    ids, source, head, index = PROMPTS[1], 2, 3, 4
    silent = int(ids[source])
    if layer == 0:
        model.embed.original_component.weight[silent] = 0
    _, cache = model.run_with_cache(ids[None])
    values = [
        model.run_with_cache(prompt[None])[1][f"blocks.{layer}.attn.hook_v"][0, :, 1, index] for prompt in PROMPTS
    ]
    own = cache[f"blocks.{layer}.attn.hook_v"][0, source, 1, index]
    assert (own == 0) == (layer == 0)
    weight = cache[f"blocks.{layer}.attn.hook_pattern"][0, head, -1, source]
    if name == "qwen3_next":
        weight = weight * cache[f"blocks.{layer}.attn.hook_q_gate"][0, -1].unflatten(-1, (4, 8))[head, index].sigmoid()
    expected = float(weight * (own - torch.cat(values).mean()))
    unit = [("attn", layer, head, index)]
    runs = AnswerRuns.of(model, ids[None], 0, at=torch.tensor([6]))
    found = source_values(model, runs, PROMPTS, unit, [source], "mean", 0)
    assert float(found) == pytest.approx(expected, rel=1e-9)
