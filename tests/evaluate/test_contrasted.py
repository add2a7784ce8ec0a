"""Faithfulness of one answer against another, by plain runs of each."""

import math

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.evaluate import faithfulness
from tl_neuron_attr.model.intervene import edit

PROMPT = "w1 w2 w3"


@pytest.fixture(scope="module")
def model():
    return architectures.build("llama", dtype=torch.float32)


@pytest.mark.parametrize("method", ["log_prob_increase", "gradient"])
def test_against_another_answer_neurons_are_the_best_by_the_difference_of_the_two(model, method):
    """Picked by scores of each answer's tokens in runs of their own; measured by plain runs with edited weights."""
    given = {"contrast": ["w8", "w3 w4 w2"], "k": 3, "progress": False}
    found = faithfulness(model, [PROMPT] * 2, ["w5 w9", "w5"], scores=[method], **given)
    assert found.contrasted and "times as likely" in str(found)
    for i, (target, contrast) in enumerate([("w5 w9", "w8"), ("w5", "w3 w4 w2")]):
        sides = [_places(model, PROMPT, each) for each in (target, contrast)]
        target_scores, contrast_scores = (_score(model, *side, method) for side in sides)
        scores = target_scores - contrast_scores
        picked = [("mlp", int(j) // 80, int(j) % 80) for j in scores.flatten().topk(3).indices]
        for name, best in (("none", []), (method, picked)):
            with edit(model, best), torch.no_grad():
                target_p, contrast_p = (
                    sum(float(log_p[p, w]) for p, w in places)
                    for tokens, places in sides
                    for log_p in [model(tokens)[0].log_softmax(-1)]
                )
            row = found.frame[(found.frame.prompt == i) & (found.frame.score == name)].iloc[0]
            assert row["log_prob"] == pytest.approx(target_p - contrast_p, abs=1e-5)
            assert row["prob"] == pytest.approx(math.exp(target_p - contrast_p), rel=1e-4)


def _places(model, prompt, answer):
    """The tokens of a prompt and an answer, and where each token of the answer is predicted."""
    tokens, n = model.to_tokens(f"{prompt} {answer}"), len(answer.split())
    start = tokens.shape[1] - n - 1
    return tokens, [(start + i, int(tokens[0, start + i + 1])) for i in range(n)]


def _score(model, tokens, places, method):
    """Every neuron's score of an answer; a gradient's is the slope of log p as activations are scaled."""
    if method == "log_prob_increase":
        _, cache = model.run_with_cache(tokens)
        return sum(tna.attribute_mlp_neurons(cache, w, pos=p)[0] for p, w in places)
    shares = torch.ones(3, tokens.shape[1], 80, requires_grad=True)
    hooks = [(f"blocks.{i}.mlp.hook_post", lambda post, hook, i=i: post * shares[i]) for i in range(3)]
    log_p = model.run_with_hooks(tokens, fwd_hooks=hooks)[0].log_softmax(-1)
    return torch.autograd.grad(sum(log_p[p, w] for p, w in places), shares)[0][:, places[0][0] : places[-1][0] + 1].sum(
        1
    )


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"contrast": "w9"},
            r"contrast given, and neurons cannot be picked by it with \['log_prob', .*: leave out contrast=, or give",
        ),
        (
            {"contrast": ["w9", "w8"], "scores": ["random"]},
            "contrast must be one for all prompts or one for each of the 1, got 2",
        ),
        (
            {"contrast": "", "scores": ["random"]},
            r"no target can be read; contrast\[0\] is empty",
        ),
    ],
)
def test_bad_input_is_named(model, change, message):
    with pytest.raises(ValueError, match=message):
        faithfulness(model, [PROMPT], ["w5"], progress=False, **change)
