"""Neurons of experts taken out of runs, many in one, against the model with their weights at zero."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures, oracle
from tl_neuron_attr.model.expert_hooks import require_same_batch

TARGET = 5


def without(model, tokens, columns):
    """The target's log-probability after the last token, with the weights that some neurons write with at zero."""
    kept = [column.clone() for column in columns]
    for column in columns:
        column.zero_()
    found = model(tokens)[0, -1].log_softmax(-1)[TARGET]
    for column, before in zip(columns, kept, strict=True):
        column.copy_(before)
    return float(found)


def columns_of(model, neurons):
    """The live weights of the MLP neurons of a search, experts' and others', in its order."""
    mixtures = {la: model.blocks[la].mlp for la in set(neurons.flat("layer"))}
    return [
        mixtures[la].W_out[i]
        if hasattr(mixtures[la], "W_out")
        else oracle.down_columns(mixtures[la].original_component)[i]
        for la, i in zip(neurons.flat("layer"), neurons.flat("index"), strict=True)
    ]


@torch.no_grad()
@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "gpt_oss", "deepseek_v3", "llama4"])
def test_what_a_prediction_loses_without_neurons_is_what_it_loses_with_their_weights_at_zero(name):
    model, tokens = architectures.build(name), architectures.prompts(1)
    value = tna.value_neurons(model.run_with_cache(tokens)[1], TARGET, 6, sites="mlp")
    found = tna.evaluate.verify(model, tokens, value, TARGET, progress=False)
    columns = columns_of(model, value)
    whole = without(model, tokens, [])
    assert found.log_prob == pytest.approx(whole, abs=1e-9)
    alone = [whole - without(model, tokens, [column]) for column in columns]
    assert found.neurons.effect.tolist() == pytest.approx(alone, abs=1e-6) and max(map(abs, alone)) > 1e-3
    together = whole - without(model, tokens, columns)
    assert found.joint[6] == pytest.approx(together, abs=1e-6)
    measured = tna.evaluate.verify_components(model, tokens, list(value.flat_labels), TARGET, progress=False)
    assert measured.effect.tolist() == pytest.approx(alone, abs=1e-6)


@torch.no_grad()
def test_a_whole_mixture_is_taken_out_but_for_its_biases():
    model, tokens = architectures.build("gpt_oss"), architectures.prompts(1)
    found = tna.evaluate.verify_components(model, tokens, [("mlp", 1)], TARGET, progress=False).effect
    columns = oracle.down_columns(model.blocks[1].mlp.original_component)
    expected = without(model, tokens, []) - without(model, tokens, columns)
    assert found.tolist() == pytest.approx([expected], abs=1e-6)


def test_factors_of_other_prompts_are_refused():
    require_same_batch(torch.ones(1, 4), torch.ones(3, 2, 4))
    with pytest.raises(ValueError, match="neurons are of 2 prompts, but the model is run on 3"):
        require_same_batch(torch.ones(2, 4), torch.ones(3, 2, 4))
