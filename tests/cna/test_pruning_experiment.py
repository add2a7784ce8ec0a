from importlib import import_module
from unittest.mock import patch

import pytest
import torch

from tests import architectures
from tl_neuron_attr import cna
from tl_neuron_attr.cna import Case

CASES = [Case(tuple(row.tolist()), 5 + i, "ab"[i % 2]) for i, row in enumerate(architectures.prompts(4))]
OPTIONS = {"learning_rate": 2e-2, "epochs": 20, "progress": False}


def trained(model):
    return cna.train_lora(model, CASES, layer=0, **OPTIONS)


def test_the_union_is_of_each_cases_neurons():
    model = architectures.build("llama")
    adapter = trained(model)
    expected = {1: set(), 2: set()}
    for case in CASES:
        tokens = torch.tensor([case.tokens])
        _, cache = model.run_with_cache(tokens)
        with adapter.attached(model):
            _, other = model.run_with_cache(tokens)
            other = other.to("cpu")
        found = cna.compare_neurons(cache, other, case.answer).top(30, largest=False)
        for layer, i in zip(found.flat("layer"), found.flat("index"), strict=True):
            if layer in expected:
                expected[layer].add(i)
    found = cna.amplified(model, adapter, CASES, top=30, layers=[1, 2], batch_size=3, progress=False)
    assert found == {layer: sorted(neurons) for layer, neurons in expected.items()}


def test_accuracies_are_those_of_the_pruned_and_fine_tuned_models():
    model = architectures.build("llama")
    before = {name: tensor.clone() for name, tensor in model.original_model.state_dict().items()}
    adapter = trained(model)
    found = cna.pruning_experiment(model, CASES, CASES, layers=[1, 2], lora_layer=0, top=25, adapter=adapter, **OPTIONS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.original_model.state_dict().items())
    kept = [("mlp", layer, i) for layer, neurons in found.kept.items() for i in neurons]
    assert found.share == pytest.approx(len(kept) / 160)
    with cna.prune_mlp(model, kept, [1, 2]):
        pruned = cna.answered(model, CASES)
        with trained(model).attached(model):
            again = cna.answered(model, CASES)
    wide = found.wide()
    assert wide.loc["pruned", "all"] == sum(pruned) / 4
    assert wide.loc["pruned + LoRA", "all"] == sum(again) / 4
    assert wide.loc["pruned + LoRA", "b"] == sum(again[1::2]) / 2
    assert wide.loc["original", "all"] == sum(cna.answered(model, CASES)) / 4
    assert wide.columns.tolist() == ["all", "a", "b"]
    assert "of layers [1, 2] kept" in str(found)


def test_the_seed_decides_the_random_neurons_only():
    model = architectures.build("gpt2")
    adapter, drawn, real = trained(model), [], cna.prune_mlp

    def spy(model, keep, layers):
        drawn.append(keep)
        return real(model, keep, layers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("tl_neuron_attr.cna.pruning_experiment"), "prune_mlp", spy)
        for seed in (0, 0, 1):
            cna.pruning_experiment(
                model,
                CASES,
                CASES,
                layers=[2],
                lora_layer=0,
                top=40,
                adapter=adapter,
                seed=seed,
                steps=1,
                progress=False,
            )
    assert drawn[0] == drawn[2] == drawn[4]
    assert drawn[1] == drawn[3] != drawn[5]
    assert len(drawn[0]) == len(drawn[1]) == len(set(drawn[1]))


def test_bad_arguments_are_named():
    model = architectures.build("gpt2")
    adapter = trained(model)
    given = {"layers": [2], "lora_layer": 0, "adapter": adapter, "top": 25}
    wrong = [({"epoch": 3}, TypeError, "'epoch', may be rank"), ({"layer": 1}, TypeError, "'layer', may be")]
    wrong += [({"rank": 0}, ValueError, "rank must be positive"), ({"rank": 33}, ValueError, "rank must be at most 32")]
    wrong += [({"learning_rate": float("nan")}, ValueError, "learning_rate must be positive, got nan")]
    for options, error, message in wrong:
        with pytest.raises(error, match=message), patch.object(cna.Adapter, "attached", side_effect=AssertionError):
            cna.pruning_experiment(model, CASES, CASES, **given, **options)
    with pytest.raises(ValueError, match="cases is empty"):
        cna.pruning_experiment(model, [], CASES, layers=[2], lora_layer=0)
    with pytest.raises(IndexError, match="layers must lie between 0 and 2, got 5"):
        cna.amplified(model, adapter, CASES, top=3, layers=[5], progress=False)
    with pytest.raises(ValueError, match="k must be between 1 and the 240 mlp neurons, got 0"):
        cna.amplified(model, adapter, CASES, top=0, layers=[2], progress=False)
