"""Heads, neurons and sublayers taken out, against whole runs with hooks of plain PyTorch."""

import pytest
import torch

from tests import architectures
from tl_neuron_attr.evaluate import estimate_effects, verify_components

TARGET = 5
TOKENS = architectures.prompts()[0]


@pytest.fixture(scope="module")
def model():
    return architectures.build("llama")


@torch.no_grad()
def left(model, layer, projection, change):
    """Log p with what ``o_proj`` or ``down_proj`` of transformers reads changed."""
    block = model.original_model.model.layers[layer]
    module = block.self_attn.o_proj if projection == "o" else block.mlp.down_proj
    hook = module.register_forward_pre_hook(lambda _, args: (change(args[0].clone()),))
    try:
        return float(model(TOKENS[None])[0, -1].log_softmax(-1)[TARGET])
    finally:
        hook.remove()


WIDTH = architectures.D_MODEL // architectures.HEADS


def test_each_kind_is_taken_out_as_plain_hooks_would(model):
    def zeroed(*at):
        def change(read):
            read[(0, slice(None), *at)] = 0
            return read

        return change

    expected = {
        "L1H2": left(model, 1, "o", zeroed(slice(2 * WIDTH, 3 * WIDTH))),
        "L2H0D3": left(model, 2, "o", zeroed(3)),
        "L0N7": left(model, 0, "down", zeroed(7)),
        "L1 mlp": left(model, 1, "down", zeroed(slice(None))),
        "L2 attn": left(model, 2, "o", zeroed(slice(None))),
    }
    named = [(1, 2), "L2H0D3", ("mlp", 0, 7), ("mlp", 1), ("attn", 2)]
    found = verify_components(model, TOKENS, named, TARGET, progress=False)
    assert found.labels == tuple(expected)
    assert (found.log_prob - found.effect).tolist() == pytest.approx(list(expected.values()), abs=1e-5)


def test_all_neurons_of_a_sublayer_are_the_sublayer(model):
    every = [("mlp", 1, i) for i in range(architectures.D_MLP)]
    together = verify_components(model, TOKENS, every, TARGET, progress=False).joint[architectures.D_MLP]
    whole = verify_components(model, TOKENS, [("mlp", 1)], TARGET, progress=False)
    assert together == pytest.approx(float(whole.effect[0]), abs=1e-6)
    heads = [(2, head) for head in range(architectures.HEADS)]
    attn = verify_components(model, TOKENS, [("attn", 2)], TARGET, progress=False)
    joint = verify_components(model, TOKENS, heads, TARGET, progress=False).joint[architectures.HEADS]
    assert joint == pytest.approx(float(attn.effect[0]), abs=1e-6)


def test_a_head_is_replaced_by_its_mean(model):
    def mean(read):
        read[0, :, 2 * WIDTH : 3 * WIDTH] = read[0, :, 2 * WIDTH : 3 * WIDTH].mean(0)
        return read

    found = verify_components(model, TOKENS, [(1, 2)], TARGET, baseline="mean", progress=False)
    assert found.log_prob - float(found.effect[0]) == pytest.approx(left(model, 1, "o", mean), abs=1e-5)


def test_a_sublayer_is_replaced_by_what_it_did_together_at_one_position(model):
    choices = []
    for position in range(len(TOKENS)):

        def drawn(read, position=position):
            read[0] = read[0, position].clone()
            return read

        choices.append(left(model, 1, "down", drawn))
    found = verify_components(model, TOKENS, [("mlp", 1)], TARGET, baseline="resample", progress=False)
    without = found.log_prob - float(found.effect[0])
    assert min(abs(without - each) for each in choices) < 1e-5


@pytest.mark.parametrize(
    ("components", "error", "message"),
    [
        ([], ValueError, "components is empty"),
        ([("mlp", 3)], IndexError, "layer of components.0. must lie between 0 and 2, got 3"),
        ([(1, 9)], IndexError, "head of .1, 9. must lie between 0 and 3"),
        ([("mlp", 1), ("mlp", 1)], IndexError, "names L1 mlp twice"),
        (["L1"], TypeError, "must be .layer, head."),
    ],
)
def test_what_is_no_component_is_refused(model, components, error, message):
    with pytest.raises(error, match=message):
        verify_components(model, TOKENS, components, TARGET, progress=False)


def test_a_reference_that_would_be_ignored_is_refused(model):
    with pytest.raises(ValueError, match="reference is used by baseline='mean'"):
        verify_components(model, TOKENS, [(0, 0)], TARGET, reference=["a"], progress=False)


@torch.no_grad()
def test_in_a_linear_model_estimates_are_the_effects():
    """Without norms, with even attention and no neuron near its bend, a difference of logits is linear."""
    model = architectures.native(normalization_type=None)
    for name, parameter in model.named_parameters():
        if ".attn." in name and ".q." in name:
            parameter.zero_()
        if ".fc_in." in name and name.endswith("bias"):
            parameter.fill_(10)  # where GELU is the identity
        if ".fc_out." in name:
            parameter.mul_(0.1)  # so that no later layer's neuron leaves that range
    estimates = estimate_effects(model, TOKENS, TARGET, contrast=TARGET + 1)
    named = [("mlp", 0, 3), ("mlp", 1, 8), (0, 1), (1, 2), ("attn", 0, 2, 3)]
    found = verify_components(model, TOKENS, named, TARGET, contrast=TARGET + 1, progress=False)
    expected = [
        estimates.mlp_neurons[0, 3], estimates.mlp_neurons[1, 8], estimates.heads[0, 1], estimates.heads[1, 2],
        estimates.attn_neurons[0, 2, 3],
    ]  # fmt: skip
    assert found.effect.tolist() == pytest.approx([float(each) for each in expected], rel=1e-4, abs=2e-5)  # rounding
    assert found.effect.abs().min() > 5e-4
    assert found.joint[3] == pytest.approx(sum(float(each) for each in expected[:3]), abs=2e-5)
