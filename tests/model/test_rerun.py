"""Runs that start at a layer against whole runs."""

import warnings

import pytest
import torch

from tests import architectures
from tl_neuron_attr.model.rerun import Replay

TOKENS, POS = architectures.prompts(), torch.tensor([4, 6])
EVERYTHING = torch.arange(2)


def last(model):
    return model(TOKENS)[EVERYTHING, POS]


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "falcon", "gemma2"])
def test_every_layer_gives_the_runs_own_logits_back(name):
    model = architectures.build(name)
    replay = Replay(model, TOKENS, POS)
    assert replay.skips
    torch.testing.assert_close(replay.logits, last(model), atol=1e-12, rtol=0)
    for layer in range(architectures.LAYERS):
        torch.testing.assert_close(replay.from_layer(layer, EVERYTHING), last(model), atol=1e-12, rtol=0)
        turned = replay.from_layer(layer, EVERYTHING.flip(0))
        torch.testing.assert_close(turned, last(model).flip(0), atol=1e-12, rtol=0)


@torch.no_grad()
def test_blocks_below_are_not_run():
    model = architectures.build("llama")
    replay = Replay(model, TOKENS, POS)
    ran = []
    for layer, block in enumerate(model.blocks):
        block.original_component.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
    replay.from_layer(1, EVERYTHING)
    assert ran == [1, 2]


@torch.no_grad()
def test_the_users_own_hooks_act_once():
    model = architectures.build("gpt2")
    add = [(f"blocks.{layer}.hook_resid_pre", lambda resid, hook: resid + 0.1) for layer in range(3)]
    with model.hooks(fwd_hooks=add):
        replay = Replay(model, TOKENS, POS)
        expected = last(model)
        for layer in range(3):
            torch.testing.assert_close(replay.from_layer(layer, EVERYTHING), expected, atol=1e-12, rtol=0)


@torch.no_grad()
def test_blocks_that_pass_something_on_by_the_side_are_not_skipped():
    """The last block adds what the first one left behind, as no stream shows."""
    model = architectures.build("llama")
    left = []
    first, final = model.blocks[0].original_component, model.blocks[2].original_component
    first.register_forward_hook(lambda module, args, output: left.append(output.roll(1, -1)))
    final.register_forward_hook(lambda module, args, output: output + left.pop() if left else output)
    with pytest.warns(UserWarning, match="blocks of BlockBridge cannot be skipped exactly"):
        replay = Replay(model, TOKENS, POS)
    assert not replay.skips
    expected = last(model)
    torch.testing.assert_close(replay.logits, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(replay.from_layer(2, EVERYTHING), expected, atol=1e-12, rtol=0)


@torch.no_grad()
def test_nothing_stays_behind_after_an_exception():
    model = architectures.build("gpt2")
    expected = last(model)
    replay = Replay(model, TOKENS, POS)

    def crash(*_):
        raise ZeroDivisionError

    handle = model.blocks[2].register_forward_pre_hook(crash)
    with pytest.raises(ZeroDivisionError):
        replay.from_layer(1, EVERYTHING)
    handle.remove()
    assert torch.equal(last(model), expected)
    assert not any("forward" in vars(block) for block in model.blocks)
    assert not model.unembed._forward_pre_hooks and not model.blocks[0]._forward_pre_hooks


def test_a_model_that_skips_does_not_warn():
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        assert Replay(architectures.build("neox_parallel"), TOKENS, POS).skips
