"""The neurons that matter: found among candidates of which each was taken out."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.evaluate import important_neurons, verify

PROMPT, TARGET = "3 + 5 =", "8"


@pytest.fixture(scope="module")
def model():
    return tna.demo.load()


@pytest.fixture(scope="module")
def found(model):
    return important_neurons(model, PROMPT, TARGET, k=6, candidates=40, progress=False)


def test_none_of_the_papers_best_costs_more_than_what_is_left_out(model, found):
    """Every value neuron was a candidate: one that is not among the k costs no more than the last of them."""
    _, cache = model.run_with_cache(PROMPT)
    value = verify(model, PROMPT, tna.value_neurons(cache, TARGET, k=40)[0], TARGET, progress=False).neurons
    last = float(found.neurons.effect[-1])
    for label, effect in zip(value.labels, value.effect.tolist(), strict=True):
        assert label in found.neurons.labels or effect <= last + 1e-5


def test_scores_are_the_papers_and_effects_are_measured(model, found):
    _, cache = model.run_with_cache(PROMPT)
    scores = tna.attribute_mlp_neurons(cache, TARGET)[0]
    mlp = found.neurons.of_site("mlp")
    for layer, index, score in zip(mlp.flat("layer"), mlp.flat("index"), mlp.score.tolist(), strict=True):
        assert score == pytest.approx(float(scores[layer, index]), abs=1e-4)
    again = verify(model, PROMPT, found.neurons, TARGET, progress=False)
    assert again.neurons.effect.tolist() == pytest.approx(found.neurons.effect.tolist(), abs=1e-4)
    assert again.joint == pytest.approx(found.joint, abs=1e-4)


def test_specificity_compares_with_other_prompts(model):
    others = [("2 + 2 =", "4"), ("Tim Duncan plays the sport of", " basketball")]
    found = important_neurons(model, PROMPT, TARGET, k=4, candidates=20, specificity=others, progress=False)
    columns = [
        (site, layer, head, index)
        for site, layer, head, index in zip(*map(found.neurons.flat, ("site", "layer", "head", "index")), strict=True)
    ]
    components = [("mlp", la, i) if site else ("attn", la, h, i) for site, la, h, i in dict.fromkeys(columns)]
    for (prompt, answer), loss in zip(others, found.elsewhere, strict=True):
        token = model.to_single_token(answer.strip())
        before = model(prompt)[0, -1].log_softmax(-1)[token]
        with tna.ablate(model, components):
            after = model(prompt)[0, -1].log_softmax(-1)[token]
        assert loss == pytest.approx(float(before - after), abs=1e-4)
    mean, low, high = found.specific
    assert low <= mean <= high
    assert mean == pytest.approx(found.joint[4] - sum(found.elsewhere) / 2, abs=1e-6)


@pytest.mark.parametrize(
    "others, message",
    [
        ([], r"specificity holds 0 prompts, and an interval needs two or more"),
        ([("2 + 2 =", "4")], r"specificity holds 1 prompt"),
        ([("2 + 2 =", "4"), ("", "4")], r"specificity\[1\]: "),
        ([("2 + 2 =", "4"), ("2 + 3 =", "no such word")], r"specificity\[1\]: .*'no such word'"),
    ],
)
def test_reference_prompts_that_cannot_be_used_are_refused_before_anything_runs(model, monkeypatch, others, message):
    monkeypatch.setattr(type(model), "run_with_cache", lambda *_, **__: pytest.fail("the model was run"))
    with pytest.raises(ValueError, match=message):
        important_neurons(model, PROMPT, TARGET, k=1, specificity=others, progress=False)


def test_a_model_in_half_precision_is_refused():
    model = architectures.build("llama").to(torch.bfloat16)
    with pytest.raises(ValueError, match="bfloat16, whose gradients are too coarse"):
        important_neurons(model, architectures.prompts(1)[0], 5, k=1, progress=False)


def test_the_table_marks_neurons_whose_score_and_effect_disagree(found):
    table = found.table()
    score, effect, signs = (table.headings.index(name) for name in ("score", "effect", "signs"))
    for row in table.rows:
        assert (row[signs] == "differ") == (row[score] * row[effect] < 0)


def test_a_target_the_model_hardly_predicts_is_said_to_be_one(model, found):
    unlikely = important_neurons(model, PROMPT, " basketball", k=2, candidates=10, progress=False)
    assert unlikely.log_prob < -6.9
    assert "hardly predicts this target" in unlikely.table().caption
    assert "hardly" not in found.table().caption


def test_a_long_answer_and_a_contrast_are_not_taken_for_an_improbable_target(model):
    options = {"k": 2, "candidates": 10, "progress": False}
    undecided = architectures.build("llama", dtype=torch.float32)  # each token is about as likely as any other
    answer = important_neurons(undecided, architectures.prompts(1)[0], tna.Answer((5, 17, 5)), **options)
    assert answer.tokens == 3 and 3 * -6.9 < answer.log_prob < -6.9 and "hardly" not in answer.table().caption
    against = important_neurons(model, PROMPT, " basketball", contrast=TARGET, **options)
    assert against.log_prob < -6.9 and "hardly" not in against.table().caption
    assert f"log p less the contrast's {against.log_prob:.2f} untouched" in against.table().caption


def test_more_neurons_than_candidates_are_refused(model):
    with pytest.raises(ValueError, match="k must be between 1 and the"):
        important_neurons(model, PROMPT, TARGET, k=10_000, candidates=5, progress=False)


def test_the_neurons_of_an_answer_are_scored_and_taken_out_for_all_of_its_tokens():
    model = architectures.build("llama", dtype=torch.float32)
    prompt, answer = architectures.prompts(1, 4)[0], tna.Answer((5, 17, 5))
    found = important_neurons(model, prompt, answer, k=3, candidates=300, progress=False).neurons
    q = tna.answer(model, prompt, answer)
    mlp, attn = tna.attribute_mlp_neurons(q), tna.attribute_attn_neurons(q)
    for i, label in enumerate(found.labels):
        layer, head, source, index = (int(getattr(found, name)[i]) for name in ("layer", "head", "source", "index"))
        expected = mlp[layer, index] if "N" in label else attn[layer, head, source, index]
        assert float(found.score[i]) == pytest.approx(float(expected), abs=1e-5)
    whole = verify(model, prompt, tna.value_neurons(q, k=300), answer, progress=False).neurons
    assert float(found.effect[0]) >= float(whole.effect.max()) - 1e-5
