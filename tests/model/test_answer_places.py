"""Answers in caches that a user gave."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures

ANSWER = (5, 17, 5)


@pytest.fixture(scope="module")
def llama():
    return architectures.build("llama")


def test_a_cache_that_ends_with_the_answer_takes_it_as_its_target(llama):
    prompt = architectures.prompts(1, 4)
    _, cache = llama.run_with_cache(torch.cat([prompt, torch.tensor([ANSWER])], 1))
    given = tna.Answer(ANSWER)
    expected = tna.attribute_layers(tna.answer(llama, prompt[0], given)).attn
    for scoring in ({}, {"pos": 3}):
        found = tna.attribute_layers(cache, given, **scoring).attn[0]
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
    found = tna.attribute_layers(cache, [given]).attn[0]
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_a_cache_without_the_answer_is_refused(llama):
    _, cache = llama.run_with_cache(architectures.prompts(1, 5))
    with pytest.raises(ValueError, match="is not how prompt 0 of the cache ends"):
        tna.attribute_layers(cache, tna.Answer(ANSWER))
    with pytest.raises(ValueError, match="is not what the cache holds behind position 1"):
        tna.attribute_layers(cache, tna.Answer(ANSWER), pos=1)
    with pytest.raises(ValueError, match="does not fit behind position 3"):
        tna.attribute_layers(cache, tna.Answer(ANSWER), pos=3)
    with pytest.raises(ValueError, match="target 'w5 w6' is 2 tokens, and one cache holds one answer"):
        tna.attribute_layers(cache, tna.any_of("w5 w6", "w7"))
    with pytest.raises(ValueError, match=r"tna\.answer"):
        tna.attribute_layers(cache, "w5 w6")


def test_a_cache_that_does_not_show_its_tokens_is_refused(llama):
    _, cache = llama.run_with_cache(architectures.prompts(1, 5))
    del cache.cache_dict["embed.hook_in"]
    with pytest.raises(ValueError, match=r"cache lacks embed\.hook_in, which shows whether it holds the answer"):
        tna.scored(cache, tna.Answer(ANSWER))
