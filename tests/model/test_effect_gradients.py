"""Gradients against finite differences, the relevance rule against what it says of norms, gates and attention."""

import pytest
import torch

from tests import architectures
from tl_neuron_attr.model.answer_runs import AnswerRuns
from tl_neuron_attr.model.effect_gradients import _shared_product, effect_gradients

TARGET, POS = 5, -1


def runs(model, contrast=None):
    tokens = architectures.prompts()
    at = torch.full((len(tokens),), tokens.shape[1] - 1)
    return AnswerRuns.of(model, tokens, TARGET, at=at, contrast=contrast)


def log_prob(model, hooks):
    with torch.no_grad():
        return model.run_with_hooks(architectures.prompts(), fwd_hooks=hooks)[:, POS].log_softmax(-1)[:, TARGET]


@pytest.mark.parametrize("name", architectures.DENSE)
def test_gradients_are_finite_differences(name):
    model = architectures.build(name, dtype=torch.float64)
    found = effect_gradients(model, runs(model))
    for hook, gradients, at in (
        ("blocks.1.mlp.hook_post", found.mlp_gradient[1], (slice(None), 2, 7)),
        ("blocks.0.attn.hook_z", found.attn_gradient[0], (slice(None), 3, 1, 4)),
    ):

        def moved(by, hook=hook, at=at):
            def move(value, hook):
                value = value.clone()
                value[at] += by
                return value

            return log_prob(model, [(hook, move)])

        step = 1e-2  # transformers computes RMSNorm in float32, so that a smaller one would only see its rounding
        near, far = moved(step) - moved(-step), moved(2 * step) - moved(-2 * step)
        numeric = (8 * near - far) / (12 * step)  # fourth order in the step
        assert torch.allclose(gradients[at], numeric, atol=1e-4, rtol=1e-3), name


@pytest.mark.parametrize("rule", ["gradient", "relevance"])
@pytest.mark.parametrize("name", architectures.DENSE)
def test_no_rule_changes_the_prediction_or_leaves_a_trace(name, rule):
    model = architectures.build(name)
    wanted = [p.requires_grad for p in model.parameters()]
    before = log_prob(model, [])
    found = effect_gradients(model, runs(model), rule=rule)
    assert torch.allclose(found.log_prob, before, atol=1e-5)
    assert torch.equal(log_prob(model, []), before)
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert all(p.grad is None for p in model.parameters())


def test_weights_that_need_no_gradient_are_no_hindrance():
    model = architectures.build("llama")
    reference = effect_gradients(model, runs(model))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad():
        found = effect_gradients(model, runs(model))
    assert torch.equal(found.mlp_gradient[0], reference.mlp_gradient[0])
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "olmo2"])
def test_the_relevance_of_the_last_layer_is_the_frozen_readout(name):
    """Behind the last MLP stand only norms: with their scales frozen, a contrast of logits is linear in each neuron."""
    import tl_neuron_attr as tna

    model = architectures.build(name)
    found = effect_gradients(model, runs(model, contrast=TARGET + 1), rule="relevance")
    last = model.cfg.n_layers - 1
    estimated = (found.mlp[last] * found.mlp_gradient[last])[:, POS]
    if name == "gemma2":  # a softcap is no norm: the slope at the prediction is what a gradient sees
        assert estimated.isfinite().all()
        return
    _, cache = model.run_with_cache(architectures.prompts())
    exact = tna.attribute_mlp_neurons(cache, TARGET, contrast=TARGET + 1, layers=[last])[:, 0]
    assert torch.allclose(estimated, exact, atol=1e-5)


def test_a_gate_and_its_factor_share_the_gradient_of_their_product():
    gate, factor = torch.tensor([2.0, 0.0], requires_grad=True), torch.tensor([3.0, 5.0], requires_grad=True)
    share = _shared_product({"gate": gate, "up": factor}, ["gate", "up"])
    share((gate * factor).detach(), None).sum().backward()
    assert gate.grad.tolist() == [1.5, 0.0] and factor.grad.tolist() == [1.0, 0.0]  # half of 6 / 2 and of 6 / 3


def test_a_broken_weight_is_named():
    model = architectures.build("llama", dtype=torch.float32)
    with torch.no_grad():
        model.blocks[1].attn.W_Q[0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match=r"the model's weight .* holds NaN or Inf"):
        effect_gradients(model, runs(model))


def test_half_precision_is_refused():
    model = architectures.build("llama").to(torch.bfloat16)
    with pytest.raises(ValueError, match="bfloat16, whose gradients are too coarse"):
        effect_gradients(model, runs(model))
