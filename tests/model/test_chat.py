"""Messages as prompts."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures

SAID = [{"role": "user", "content": "w1 w2"}]
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %} w9{% endif %}"


@pytest.fixture
def model():
    model = architectures.build("llama")
    yield model
    model.tokenizer.chat_template = None


def test_the_template_makes_the_tokens_and_nothing_is_put_before_them(model):
    model.tokenizer.chat_template = TEMPLATE
    assert tna.chat(model, SAID).tolist() == [1, 2, 9]
    model.tokenizer.chat_template = "<bos> " + TEMPLATE
    tokens = tna.chat(model, SAID)
    assert tokens.tolist() == [93, 1, 2, 9]
    assert torch.equal(tna.answer(model, tokens, "w5").stream.tokens()[0], torch.tensor([93, 1, 2, 9, 5]))


def test_a_doubled_bos_is_mended_and_said(model):
    model.tokenizer.chat_template = "<bos> <bos> " + TEMPLATE
    with pytest.warns(UserWarning, match="two BOS tokens: one of them was taken away"):
        assert tna.chat(model, SAID).tolist() == [93, 1, 2, 9]


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        (None, SAID, "the tokenizer has no chat template"),
        (TEMPLATE, [], "messages is empty"),
        (TEMPLATE, [{"role": "user"}], r"messages\[0\] must have 'role' and 'content', got \['role'\]"),
        ("{{ raise_exception('no system role') }}", SAID, "the chat template refuses these messages: no system role"),
    ],
)
def test_what_is_no_chat_is_refused(model, template, messages, message):
    model.tokenizer.chat_template = template
    with pytest.raises(ValueError, match=message):
        tna.chat(model, messages)


def test_a_model_without_a_tokenizer_has_no_template():
    with pytest.raises(ValueError, match="the model has no tokenizer"):
        tna.chat(architectures.native(), SAID)
