"""A target that is several tokens is refused with the spelling that is one, however the tokenizer spaces words."""

from types import SimpleNamespace

import pytest
import torch

from tl_neuron_attr.model.targets import one_each, token_id


class Spelled:
    """A tokenizer by a table of its words; anything else falls into characters."""

    unk_token, unk_token_id = "<unk>", 9

    def __init__(self, words):
        self.words = words

    def encode(self, text, add_special_tokens):
        return [self.words[text]] if text in self.words else [9] * max(len(text), 2)

    def decode(self, ids):
        return "?"


def model_of(words):
    return SimpleNamespace(tokenizer=Spelled(words), W_U=torch.empty(4, 10))


@pytest.mark.parametrize(
    "words, target, advice",
    [
        ({" cat": 1}, "cat", "' cat' is one token, pass that"),  # GPT-2: a word begins with its space
        ({"cat": 1}, " cat", "'cat' is one token, pass that"),  # Llama-2: it does not
        ({}, "cat", "pass one of them, an id, or all of them by tna.answer"),
        ({" cat": 9}, "cat", "pass one of them, an id, or all of them by tna.answer"),  # the other is the unknown token
    ],
)
def test_the_spelling_that_is_one_token_is_named(words, target, advice):
    with pytest.raises(ValueError, match=f"target={target!r} must be one token.*; {advice}"):
        token_id(model_of(words), target, "target")


@pytest.mark.parametrize("target", ["\ud800", " caf\udfff", "\udc00" * 5000])
def test_a_lone_surrogate_is_no_target(target):
    with pytest.raises(ValueError, match=r"target='.*' holds a lone surrogate, which is no character: take it out"):
        token_id(model_of({target: 1}), target, "target")


def test_a_prompt_passed_as_the_target_is_not_shown_whole():
    with pytest.raises(ValueError, match=r"it is 5000: \['\?'(, '\?'){7}, ...\]") as raised:
        token_id(model_of({}), "x" * 5000, "target")
    assert len(str(raised.value)) < 300


def test_the_unknown_token_is_refused():
    with pytest.raises(ValueError, match="'zebra' is not in the model's vocabulary"):
        token_id(model_of({"zebra": 9}), "zebra", "target")
    assert token_id(model_of({"<unk>": 9}), "<unk>", "target") == 9


@pytest.mark.parametrize("target", [True, [True]])
def test_what_is_no_token_is_refused(target):
    with pytest.raises(TypeError, match="target must be"):
        one_each(model_of({}), target, 1)


def test_one_target_or_one_per_prompt():
    model = model_of({"cat": 1})
    assert one_each(model, "cat", 2).tolist() == [1, 1]
    assert one_each(model, ["cat", 3], 2).tolist() == [1, 3]
    with pytest.raises(ValueError, match="one token per prompt: 2 prompts, got 3"):
        one_each(model, [1, 2, 3], 2)
    for outside in (-1, 10):
        with pytest.raises(IndexError, match=f"between 0 and 9, got {outside}"):
            one_each(model, outside, 1)
