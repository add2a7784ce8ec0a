import pytest
import torch

from tests import architectures
from tl_neuron_attr.evaluate.gradients import gradient, integrated_gradients
from tl_neuron_attr.model.intervene import ablate

STEP = 1e-2  # wide: transformers computes RMSNorm in float32, whatever the model is
TOKENS, TARGET = architectures.prompts(), torch.tensor([[5], [11]])


def log_p(model, hooks):
    with torch.no_grad():
        logits = model.run_with_hooks(TOKENS, fwd_hooks=hooks)[:, -1]
    return logits.log_softmax(-1).gather(1, TARGET)[:, 0]


def at_last(factor=None, add=None, index=None):
    """A hook that scales the last position's activations, or adds to one of them."""

    def hook(activation, hook):
        activation = activation.clone()
        if factor is not None:
            activation[:, -1] *= factor
        if add is not None:
            activation[:, -1, index] += add
        return activation

    return hook


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3", "neox_parallel"])
def test_gradients_equal_finite_differences(name):
    model = architectures.build(name)
    scores = gradient(model, TOKENS, TARGET)
    _, cache = model.run_with_cache(TOKENS)
    for layer, index in ((0, 3), (1, 40), (2, 79)):
        hook = f"blocks.{layer}.mlp.hook_post"
        up, down = (log_p(model, [(hook, at_last(add=e, index=index))]) for e in (STEP, -STEP))
        expected = cache[hook][:, -1, index] * (up - down) / (2 * STEP)
        torch.testing.assert_close(scores[:, layer, index], expected, atol=1e-5, rtol=1e-3)


def test_of_an_answer_gradients_are_summed_over_the_positions_that_predict_it():
    """Each is the gradient of the whole answer's log-probability: of the earlier neuron, of both tokens."""
    model, layer, index = architectures.build("llama"), 1, 40
    target = torch.tensor([[5, 17], [11, 3]])
    rows = torch.cat([TOKENS, target[:, :-1]], dim=1)
    hook = f"blocks.{layer}.mlp.hook_post"

    def moved(pos, add):
        def at(activation, hook):
            activation = activation.clone()
            activation[:, pos, index] += add
            return activation

        with torch.no_grad():
            logits = model.run_with_hooks(rows, fwd_hooks=[(hook, at)])[:, -2:]
        return logits.log_softmax(-1).gather(2, target[..., None]).sum((1, 2))

    _, cache = model.run_with_cache(rows)
    slopes = [(moved(pos, STEP) - moved(pos, -STEP)) / (2 * STEP) for pos in (-2, -1)]
    expected = sum(cache[hook][:, pos, index] * slope for pos, slope in zip((-2, -1), slopes, strict=True))
    torch.testing.assert_close(gradient(model, rows, target)[:, layer, index], expected, atol=1e-5, rtol=1e-3)


def test_gradients_need_no_trainable_weights():
    model = architectures.build("gpt2")
    expected = gradient(model, TOKENS, TARGET)
    model.requires_grad_(False)
    torch.testing.assert_close(gradient(model, TOKENS, TARGET), expected)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_integrated_gradients_of_a_layer_sum_to_what_silencing_it_costs(name):
    """The completeness axiom."""
    model = architectures.build(name)
    scores = integrated_gradients(model, TOKENS, TARGET, steps=64)
    for layer in range(architectures.LAYERS):
        silenced = log_p(model, [(f"blocks.{layer}.mlp.hook_post", at_last(factor=0.0))])
        torch.testing.assert_close(scores[:, layer].sum(1), log_p(model, []) - silenced, atol=1e-4, rtol=1e-3)


def stepwise(model, tokens, target, steps):
    """Integrated gradients point by point, each a whole run of its own."""
    start, scores = tokens.shape[1] - target.shape[1], []
    for layer in range(architectures.LAYERS):
        total = 0.0
        for step in range(steps):
            kept = {}

            def scaled(activation, hook, share=(step + 0.5) / steps, kept=kept):
                kept["whole"] = activation[:, start:].detach()
                kept["part"] = (kept["whole"] * share).requires_grad_()
                return torch.cat([activation[:, :start], kept["part"]], dim=1)

            logits = model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.mlp.hook_post", scaled)])[:, start:]
            log_p = logits.log_softmax(-1).gather(2, target[..., None]).sum()
            total = total + kept["whole"] * torch.autograd.grad(log_p, kept["part"])[0] / steps
        scores.append(total.sum(1))
    return torch.stack(scores, dim=1)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "neox_parallel", "bloom"])
@pytest.mark.parametrize("max_bytes", [1, 2**28])
def test_integrated_gradients_equal_those_point_by_point(name, max_bytes):
    model, target = architectures.build(name), torch.tensor([[5, 17], [11, 3]])
    rows = torch.cat([TOKENS, target[:, :-1]], dim=1)
    found = integrated_gradients(model, rows, target, steps=3, max_bytes=max_bytes)
    torch.testing.assert_close(found, stepwise(model, rows, target, 3), atol=1e-7, rtol=1e-5)


def test_hooks_already_there_are_seen():
    model = architectures.build("gpt2")
    with ablate(model, [("mlp", 1, 3)]):
        assert gradient(model, TOKENS, TARGET)[:, 1, 3].abs().max() == 0
