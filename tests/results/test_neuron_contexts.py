"""A neuron's context beside its row."""

import pandas as pd
import pytest
import torch

import tl_neuron_attr as tna


def table(contexts):
    positive, negative = zip(*contexts, strict=True)
    return pd.DataFrame({"index": range(len(contexts)), "positive_context": positive, "negative_context": negative})


@pytest.fixture(scope="module")
def model():
    return tna.demo.load()


@pytest.fixture(scope="module")
def neurons(model):
    _, cache = model.run_with_cache("Tim Duncan plays the sport of")
    return tna.value_neurons(cache, " basketball", 10)[0]


def test_the_sign_of_the_coefficient_chooses_the_context(model, neurons):
    width, best = model.cfg.d_mlp, neurons.to_frame().iloc[0]
    contexts = [([f"+{i}", "second"], [f"-{i}"]) for i in range(width)]
    catalogue = {f"layer_{layer:02d}": table(contexts) for layer in range(model.cfg.n_layers)}
    assert best["site"] == "mlp" and best["coefficient"] > 0
    frame = neurons.to_frame(catalogue=catalogue)
    assert frame["context"][0] == f"+{best['index']}"
    assert frame["context"][frame["site"] == "attn"].isna().all() and (frame["site"] == "attn").any()
    negative = tna.Neurons.of_mlp(
        torch.tensor([1]), torch.tensor([7]), coefficient=torch.tensor([-2.0]), score=torch.tensor([0.5])
    )
    assert negative.to_frame(catalogue=catalogue)["context"].tolist() == ["-7"]


def test_a_layer_or_a_context_that_is_missing_is_na(model, neurons):
    assert neurons.to_frame(catalogue={})["context"].isna().all()
    silent = {f"layer_{layer:02d}": table([([], [])] * model.cfg.d_mlp) for layer in range(model.cfg.n_layers)}
    assert neurons.to_frame(catalogue=silent)["context"].isna().all()


def test_anything_else_is_refused_by_name(neurons):
    with pytest.raises(ValueError, match="catalogue\\['scores'\\] is not a layer"):
        neurons.to_frame(catalogue={"scores": table([([], [])])})
    with pytest.raises(ValueError, match="catalogue\\['layer_01'\\] is not a layer"):
        neurons.to_frame(catalogue={"layer_01": pd.DataFrame({"index": [0]})})
    with pytest.raises(ValueError, match="catalogue has 1 neurons in a layer and no neuron"):
        neurons.to_frame(catalogue={f"layer_{layer:02d}": table([(["a"], [])]) for layer in range(9)})
