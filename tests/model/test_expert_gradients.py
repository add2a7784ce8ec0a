"""Gradients in experts' coefficients, against finite differences of the model with one expert's weight changed."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures, oracle
from tl_neuron_attr.model.answer_runs import AnswerRuns
from tl_neuron_attr.model.effect_gradients import effect_gradients

TARGET, LAYER, STEP = 5, 2, 1e-2
NAMES = ["mixtral", "qwen2_moe", "gpt_oss", "granite_moe", "deepseek_v2", "afmoe", "llama4"]


def log_prob(model, tokens):
    return model(tokens)[0, -1].log_softmax(-1)[TARGET]


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_estimates_are_the_slope_of_the_prediction_in_what_a_neuron_writes_with(name):
    """A column of an expert's down projection times 1 + step writes as if its coefficient were so, at all positions."""
    model, tokens = architectures.build(name), architectures.prompts(1)
    found = effect_gradients(model, AnswerRuns.of(model, tokens, TARGET, at=torch.tensor([6]), contrast=None))
    estimated = (found.mlp[LAYER] * found.mlp_gradient[LAYER]).sum((0, 1))
    columns = oracle.down_columns(model.blocks[LAYER].mlp.original_component)
    assert len(columns) == len(estimated)
    for i in (*estimated.abs().topk(2).indices.tolist(), len(columns) - 1):
        kept, slopes = columns[i].clone(), []
        for times in (1, 2):
            ends = []
            for sign in (1, -1):
                columns[i].copy_(kept * (1 + sign * times * STEP))
                ends.append(log_prob(model, tokens))
            slopes.append((ends[0] - ends[1]) / (2 * times * STEP))
        columns[i].copy_(kept)
        numeric = (4 * slopes[0] - slopes[1]) / 3  # fourth order in the step
        torch.testing.assert_close(estimated[i], numeric, atol=1e-5, rtol=1e-3)


@torch.no_grad()
def test_a_path_of_scaled_experts_leads_from_none_of_a_layers_neurons_to_all():
    model, tokens = architectures.build("qwen2_moe"), architectures.prompts(1)
    runs = AnswerRuns.of(model, tokens, TARGET, at=torch.tensor([6]), contrast=None)
    steps = [effect_gradients(model, runs, scaled={LAYER: (i + 0.5) / 6}).mlp_gradient[LAYER] for i in range(6)]
    integrated = (effect_gradients(model, runs).mlp[LAYER] * torch.stack(steps).mean(0)).sum()
    neurons = [("mlp", LAYER, i) for i in range(len(oracle.rows_written_with(model.blocks[LAYER])))]
    whole = log_prob(model, tokens)
    with tna.ablate(model, neurons):
        without = log_prob(model, tokens)
    assert abs(whole - without) > 0.02
    torch.testing.assert_close(integrated, whole - without, atol=1e-3, rtol=0)


def test_estimates_name_experts_as_ablate_does():
    model, tokens = architectures.build("qwen2_moe"), architectures.prompts(1)
    best = tna.evaluate.estimate_effects(model, tokens, TARGET).top(20, sites=["mlp"])[0]
    layers = best.layer.tolist()
    assert {1} < {*layers}  # the dense layer, and others
    assert all(("E" in label) == (layer != 1) for label, layer in zip(best.labels, layers, strict=True))
    with torch.no_grad():
        whole, costs = log_prob(model, tokens), []
        for label in best.labels[:6]:
            with tna.ablate(model, [label]):
                costs.append(whole - log_prob(model, tokens))
    torch.testing.assert_close(best.score[:6].double(), torch.stack(costs), atol=0.02, rtol=0.5)
    assert tna.evaluate.important_neurons(model, tokens, TARGET, 2, candidates=3, progress=False).neurons.labels
