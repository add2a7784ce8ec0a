"""What a study measures on one prompt, against the functions called by hand."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.evaluate import Sizes
from tl_neuron_attr.evaluate.examine import EXAMINED, examine, measured_outcomes, random_like
from tl_neuron_attr.evaluate.select import AskedPrompt
from tl_neuron_attr.model.components import component_lists
from tl_neuron_attr.model.tokens import prompt_ids


def test_all_that_was_examined_is_named(model):
    sizes = Sizes(value_attn=5, value_mlp=5, query=5, shared=5)
    asked = AskedPrompt(prompt_ids(model, "w1 w4 w8"), (5,))
    assert tuple(examine(model, asked, sizes=sizes, seed=0)) == EXAMINED


def test_outcomes_are_rank_probability_and_log_probability_at_the_last_position(model):
    tokens = architectures.prompts()
    with torch.no_grad():
        probs = model(tokens)[:, -1].double().softmax(-1)
    for row, (rank, prob, log_prob) in enumerate(measured_outcomes(model, tokens, torch.tensor([5])).tolist()):
        assert rank == 1 + sum(p > probs[row, 5] for p in probs[row])
        assert prob == pytest.approx(float(probs[row, 5]), rel=1e-4)
        assert log_prob == pytest.approx(float(probs[row, 5].log()), abs=1e-4)


def test_random_neurons_are_as_many_of_each_site_each_once_and_of_the_model(model):
    named = [("mlp", 0, 1)] * 30 + [("attn", 1, 2, 3)] * 40
    found = random_like(model, named, torch.Generator().manual_seed(0))
    mlp, attn = [n for n in found if n[0] == "mlp"], [n for n in found if n[0] == "attn"]
    assert (len(set(mlp)), len(set(attn))) == (30, 40)
    layers, width = architectures.LAYERS, architectures.D_MODEL // architectures.HEADS
    assert {n[1] for n in mlp} == {n[1] for n in attn} == set(range(layers))
    assert all(0 <= i < architectures.D_MLP for _, _, i in mlp)
    assert all(0 <= head < architectures.HEADS and 0 <= j < width for _, _, head, j in attn)
    assert found == random_like(model, named, torch.Generator().manual_seed(0))
    assert found != random_like(model, named, torch.Generator().manual_seed(1))


def test_as_many_random_neurons_as_there_are_is_all_of_them(model):
    named = [("mlp", 0, 0)] * (architectures.LAYERS * architectures.D_MLP)
    every = {("mlp", layer, i) for layer in range(architectures.LAYERS) for i in range(architectures.D_MLP)}
    assert set(random_like(model, named, torch.Generator().manual_seed(0))) == every


def test_scores_are_those_of_the_functions(model, prompts, study):
    flat = [p for group in prompts.values() for p in group]
    for i in study.layers["prompt"].unique()[:3]:
        _, cache = model.run_with_cache(flat[i].prompt)
        q = tna.scored(cache, flat[i].target)  # shared, as the study does: what is read out together rounds together
        layers, heads = tna.attribute_layers(q), tna.attribute_heads(q)
        mine = study.layers[(study.layers["prompt"] == i) & (study.layers["site"] == "attn")]
        assert mine["score"].tolist() == pytest.approx(layers.attn[0].tolist())
        assert study.heads[study.heads["prompt"] == i]["score"].tolist() == pytest.approx(heads.flatten().tolist())
        sums = study.sums[(study.sums["prompt"] == i) & (study.sums["site"] == "mlp")].set_index("neurons")["score"]
        scores = tna.attribute_mlp_neurons(cache, flat[i].target).flatten()
        assert sums["all"] == pytest.approx(float(scores.sum()), abs=1e-5)
        assert sums["positive"] == pytest.approx(float(scores[scores > 0].sum()), abs=1e-5)
        assert sums["top100"] == pytest.approx(float(scores.sort().values[-100:].sum()), abs=1e-5)


def test_outcomes_are_those_of_ablating_by_hand(model, prompts, study):
    flat = [p for group in prompts.values() for p in group]
    i = int(study.outcomes["prompt"].iloc[0])
    w = model.to_single_token(flat[i].target)
    _, cache = model.run_with_cache(flat[i].prompt)
    attn, mlp = (tna.value_neurons(cache, w, n, sites=(s,))[0] for s, n in (("attn", 12), ("mlp", 6)))
    query = tna.query_neurons(cache, attn.unsqueeze(), 40, sites=("mlp",))[0]
    for zeroed, neurons in (("value", (attn, mlp)), ("query", (query,))):
        named = [component_lists(model, n)[0] for n in neurons]
        with tna.ablate(model, [part for parts in named for part in parts]), torch.no_grad():
            expected = model(flat[i].prompt)[0, -1].log_softmax(-1)[w]
        row = study.outcomes[(study.outcomes["prompt"] == i) & (study.outcomes["zeroed"] == zeroed)]
        assert row["log_prob"].item() == pytest.approx(float(expected), abs=1e-5)


def test_segments_run_from_the_embedding_to_the_prediction(study):
    for i, group in study.segments.groupby("prompt"):
        end = study.outcomes[(study.outcomes["prompt"] == i) & (study.outcomes["zeroed"] == "untouched")]
        assert group["log_prob"].iloc[-1] == pytest.approx(end["log_prob"].item(), abs=1e-4)
        assert len(group) == 61


@pytest.mark.parametrize("name", ["value_attn", "value_mlp", "query", "shared", "heads"])
def test_bad_sizes_are_named(name):
    for value in (0.0, -1.0) if name == "heads" else (0, -1):
        with pytest.raises(ValueError, match=f"sizes.{name} must be above 0, got {value}"):
            Sizes(**{name: value})


def test_sizes_fit_the_model(model):
    assert Sizes.fitting(model) == Sizes(20, 10, 100, 30, 0.05)
    assert Sizes(1000, 1000, 1000).capped(model, 3) == Sizes(3 * 4 * 8 * 3, 240, 160, 240, 0.01)


def test_without_every_neuron_the_best_are_the_same_and_only_they_are_summed(model):
    sizes = Sizes(value_attn=5, value_mlp=5, query=30, shared=5)
    asked = AskedPrompt(prompt_ids(model, "w1 w4 w8"), (5,))
    full, lean = (examine(model, asked, sizes=sizes, seed=0, every_neuron=every) for every in (True, False))
    assert torch.equal(lean["sums"], full["sums"][:, 2:])
    for name in EXAMINED:
        assert name == "sums" or torch.equal(lean[name], full[name])
    _, cache = model.run_with_cache("w1 w4 w8")
    scores = tna.attribute_mlp_neurons(cache, 5).flatten()
    assert full["value_neurons"].tolist() == scores.sort(descending=True, stable=True).indices[:30].tolist()
