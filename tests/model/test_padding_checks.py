"""Positions on padding are refused where the cache shows it, whether named or not."""

import copy

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures

TEXTS = ["w1 w2 w3", "w4 w5 w6 w7 w8 w9"]
NAMES = ["gpt2", "llama", "neox_parallel", "gemma2", "bloom", "opt"]


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    return architectures.build(request.param, dtype=torch.float32)


def test_a_named_position_on_right_padding_is_refused(model):
    _, cache = model.run_with_cache(TEXTS)
    length = cache["embed.hook_in"].shape[1]
    for pos in (length - 1, [length - 2, length - 1], torch.tensor([-1, -1]), torch.tensor([length - 2, length - 1])):
        with pytest.raises(ValueError, match=r"pos is on padding for prompts \[0\]"):
            tna.attribute_layers(cache, 5, pos=pos)
    by_tensor = tna.attribute_layers(cache, 5, pos=torch.tensor([length - 4, length - 1]))
    assert tna.attribute_layers(cache, 5, pos=[length - 4, length - 1]) == by_tensor
    assert tna.attribute_layers(cache, 5) == tna.attribute_layers(cache, 5, pos=-1) == by_tensor


def test_a_prompt_alone_is_looked_at_too(model):
    _, cache = model.run_with_cache(torch.tensor([[93, 1, 2, 3, 95, 95]]))
    for pos in (-2, 4, 5):
        with pytest.raises(ValueError, match=r"pos is on padding for prompts \[0\]"):
            tna.attribute_layers(cache, 5, pos=pos)
    assert tna.attribute_layers(cache, 5) == tna.attribute_layers(cache, 5, pos=3)


def test_a_mask_shows_padding_where_the_pad_token_may_be_text(model):
    """The tokenizer's pad token is not used: only the attention mask says what is padding."""
    tokens = torch.tensor([[93, 1, 2, 3, 4, 5], [93, 1, 2, 7, 7, 7]])
    _, cache = model.run_with_cache(tokens, attention_mask=torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]]))
    found = tna.attribute_layers(cache, 5)
    assert found == tna.attribute_layers(cache, 5, pos=[5, 2])
    _, alone = model.run_with_cache(tokens[1:, :3])
    torch.testing.assert_close(found.mlp[1], tna.attribute_layers(alone, 5).mlp[0], rtol=0, atol=2e-5)


def test_every_prompt_on_padding_is_named_and_no_other(model):
    tokens = torch.tensor([[93, 1, 2, 3, 4], [93, 1, 2, 95, 95], [93, 1, 2, 3, 95]])
    _, cache = model.run_with_cache(tokens)
    with pytest.raises(ValueError, match=r"pos is on padding for prompts \[1, 2\]"):
        tna.attribute_layers(cache, 5, pos=4)


def test_a_position_on_left_padding_is_refused(model):
    _, cache = model.run_with_cache(TEXTS, padding_side="left")
    tna.attribute_layers(cache, 5)
    if model.cfg.architecture.startswith(("GPTNeo", "OPT")):
        return
    with pytest.raises(ValueError, match=r"pos is on padding for prompts \[0\]"):
        tna.attribute_layers(cache, 5, pos=1)


def test_a_pad_token_that_also_ends_texts_may_be_real_once():
    model = architectures.build("gpt2", dtype=torch.float32)
    model.tokenizer = copy.deepcopy(model.tokenizer)
    model.tokenizer.eos_token = "<pad>"
    _, cache = model.run_with_cache(torch.tensor([[93, 1, 2, 95, 95]]))
    tna.attribute_layers(cache, 5, pos=3)
    with pytest.raises(ValueError, match="pos is on padding"):
        tna.attribute_layers(cache, 5, pos=4)
    _, cache = model.run_with_cache(torch.tensor([[93, 1, 2, 95]]))
    tna.attribute_layers(cache, 5)
