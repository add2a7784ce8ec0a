"""A model whose blocks lie on several devices gives the results of one on a single device."""

import pytest
import torch

from tests import architectures
from tests.every_score import runs, scores
from tests.pretend_devices import PretendDevices, spread

TOKENS = architectures.prompts()
DEVICES = [torch.device("cuda", i) for i in range(architectures.LAYERS)]


@pytest.mark.parametrize("name", ["llama", "gpt2", "olmo2", "qwen3_moe"])
def test_scores_of_blocks_on_several_devices_are_those_on_one(name):
    plain, model = architectures.build(name), architectures.build(name)
    spread(model, DEVICES)
    with PretendDevices():
        found = scores(model.run_with_cache(TOKENS)[1])
        devices = {key: each.device for key, each in found.items()}
    assert set(devices.values()) == {DEVICES[-1]}
    expected = scores(plain.run_with_cache(TOKENS)[1])
    assert all(torch.equal(each, expected[key]) for key, each in found.items())


def test_two_devices_that_meet_are_noticed():
    model = architectures.build("llama")
    spread(model, DEVICES)
    with PretendDevices(), pytest.raises(AssertionError, match=r"of tensors on .'cuda:0', 'cuda:1'."):
        model.blocks[0].attn.W_O + model.blocks[1].attn.W_O


def test_runs_of_blocks_on_several_devices_give_what_they_do_on_one():
    plain, model = architectures.build("llama"), architectures.build("llama")
    spread(model, DEVICES)
    with PretendDevices():
        found = runs(model, TOKENS)
    expected = runs(plain, TOKENS)
    for key, each in found.items():
        torch.testing.assert_close(each, expected[key], atol=1e-12, rtol=1e-9, msg=key)
