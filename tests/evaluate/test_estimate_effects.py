"""Estimates: sums, positions and baselines by hand, and how well they order what is measured."""

import pandas as pd
import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.evaluate import estimate_effects
from tl_neuron_attr.model.answer_runs import AnswerRuns
from tl_neuron_attr.model.effect_gradients import effect_gradients
from tl_neuron_attr.model.measured_effects import NeuronRemoval, log_probs_without

TOKENS = architectures.prompts()
TARGET = 5


@pytest.fixture(scope="module")
def model():
    return architectures.build("llama")


@pytest.fixture(scope="module")
def gradients(model):
    n, length = TOKENS.shape
    return effect_gradients(model, AnswerRuns.of(model, TOKENS, TARGET, at=torch.full((n,), length - 1)))


def test_an_estimate_is_the_activation_times_its_gradient(model, gradients):
    found = estimate_effects(model, TOKENS, TARGET)
    assert torch.equal(found.mlp[:, 1], gradients.mlp[1] * gradients.mlp_gradient[1])
    by_hand = (gradients.attn[2] * gradients.attn_gradient[2]).sum((1, 3))
    assert torch.allclose(found.heads[:, 2], by_hand, atol=1e-7)


def test_the_scored_position_alone_counts_where_it_is_asked_for(model, gradients):
    pos = torch.tensor([2, TOKENS.shape[1] - 1])[: len(TOKENS)]
    found = estimate_effects(model, TOKENS, TARGET, positions="scored", pos=pos)
    whole = estimate_effects(model, TOKENS, TARGET, pos=pos)
    for prompt, at in enumerate(pos.tolist()):
        assert torch.equal(found.mlp_neurons[prompt], whole.mlp[prompt, :, at])
        assert torch.allclose(found.attn_neurons[prompt], whole.attn[prompt, :, at], atol=1e-8)


def test_against_the_mean_only_what_differs_from_it_counts(model, gradients):
    found = estimate_effects(model, TOKENS, TARGET, baseline="mean")
    away = gradients.mlp[0] - gradients.mlp[0].mean(1, keepdim=True)
    assert torch.allclose(found.mlp[:, 0], away * gradients.mlp_gradient[0], atol=1e-7)


def test_integrated_gradients_add_up_to_zeroing_a_layer(model):
    """Completeness (Sundararajan et al., 2017): a layer's scores sum to the effect of zeroing all of its neurons."""
    found = estimate_effects(model, TOKENS[:1], TARGET, method="integrated")
    for layer in range(model.cfg.n_layers):
        hook = (f"blocks.{layer}.mlp.hook_post", lambda post, hook: torch.zeros_like(post))
        with torch.no_grad():
            without = model.run_with_hooks(TOKENS[:1], fwd_hooks=[hook])[0, -1].log_softmax(-1)[TARGET]
        assert float(found.mlp[0, layer].sum()) == pytest.approx(
            float(found.log_prob[0] - without), abs=1e-3
        )  # eight midpoints


def test_estimates_order_measured_effects_better_than_scores_do():
    model, prompt = tna.demo.load(), "The capital of France is"
    _, cache = model.run_with_cache(prompt)
    value = tna.value_neurons(cache, " Paris", k=60, sites=("mlp",))[0]
    at = list(zip(value.flat("layer"), value.flat("index"), strict=True))
    ids, token = model.to_tokens(prompt), model.to_single_token("Paris")
    sets = [[NeuronRemoval("mlp", layer, -1, -1, index, 0.0)] for layer, index in at]
    base, without = log_probs_without(
        model, AnswerRuns.of(model, ids, token, at=torch.tensor([ids.shape[1] - 1])), sets
    )
    found = estimate_effects(model, prompt, " Paris").mlp_neurons
    frame = pd.DataFrame({"measured": (base - without).tolist(), "score": value.score.tolist()})
    frame["gradient"] = [float(found[layer, index]) for layer, index in at]
    ranks = frame.rank().corr()["measured"]
    assert ranks["gradient"] > 0.7
    assert ranks["gradient"] > ranks["score"]


def test_an_integrated_path_starts_from_zero(model):
    with pytest.raises(ValueError, match="starts from zero"):
        estimate_effects(model, TOKENS, TARGET, method="integrated", baseline="mean")


ANSWER, OTHER = (5, 17, 5), (9, 3)


def by_tokens(model, prompt, answer, method="gradient"):
    """Each token's own estimates, behind the prompt and the tokens before it."""
    whole = torch.cat([prompt, torch.tensor(answer)])
    found = [estimate_effects(model, whole[: len(prompt) + i], t, method=method) for i, t in enumerate(answer)]
    return [sum(getattr(each, name) for each in found) for name in ("mlp_neurons", "attn_neurons", "log_prob")]


@pytest.mark.parametrize("method", ["gradient", "relevance", "integrated"])
def test_an_answer_is_estimated_by_its_tokens_added_up(model, method):
    prompt = TOKENS[0, :4]
    found = estimate_effects(model, prompt, tna.Answer(ANSWER), contrast=tna.Answer(OTHER), method=method)
    right, wrong = (by_tokens(model, prompt, answer, method) for answer in (ANSWER, OTHER))
    for name, mine, theirs in zip(("mlp_neurons", "attn_neurons", "log_prob"), right, wrong, strict=True):
        torch.testing.assert_close(getattr(found, name), mine - theirs, atol=2e-6, rtol=1e-4)
    assert found.mlp.shape[-2] == 4 + (len(ANSWER) - 1) + (len(OTHER) - 1)


def test_several_right_answers_are_weighted_by_their_probability(model):
    answers = tna.any_of(tna.Answer(ANSWER), tna.Answer(OTHER))
    found = estimate_effects(model, TOKENS[:, :4], [answers, tna.Answer(OTHER)])
    (mlp, _, log_p), (mlp2, _, log_p2) = (by_tokens(model, TOKENS[0, :4], answer) for answer in (ANSWER, OTHER))
    share = torch.stack([log_p, log_p2]).softmax(0)
    torch.testing.assert_close(found.mlp_neurons[0], share[0] * mlp + share[1] * mlp2, atol=2e-6, rtol=1e-4)
    second = by_tokens(model, TOKENS[1, :4], OTHER)
    torch.testing.assert_close(found.mlp_neurons[1], second[0], atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(found.log_prob[0], torch.stack([log_p, log_p2]).logsumexp(0), atol=1e-5, rtol=0)
