"""Positions against the text they must cover, with three kinds of tokenizers, and what is refused."""

from copy import deepcopy
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers

from tests import architectures
from tests.incontext import tokenizers
from tl_neuron_attr import demo
from tl_neuron_attr.incontext import icl_prompt
from tl_neuron_attr.model.tokens import prompt_ids

PAIRS = [("a great movie", "foo"), ("an awful plot", "bar"), ("the plot", "bar")]


@pytest.fixture(scope="module", params=["words", "byte_level", "metaspace"])
def model(request):
    return demo.load() if request.param == "words" else tokenizers.model(request.param)


def pieces(model, prompt):
    """The text of every part the prompt keeps positions of."""
    decode = model.tokenizer.decode
    texts = [decode(prompt.tokens[start:stop]).strip() for start, stop in (*prompt.spans, prompt.query_span)]
    return texts, [decode([prompt.tokens[i]]).strip() for i in prompt.label_positions]


@pytest.mark.parametrize("end", [" ", " . ", "\n"])
def test_positions_cover_texts_and_labels(model, end):
    if end != " " and (end == "\n") == (model.tokenizer.decode([5]) == ","):
        end = " "  # the words of the bundled model know no line break, the two others no full stop
    prompt = icl_prompt(model, PAIRS, "a great plot", "foo", end=end)
    texts, labels = pieces(model, prompt)
    assert texts == ["a great movie", "an awful plot", "the plot", "a great plot"]
    assert labels == ["foo", "bar", "bar"]
    assert prompt.sequence == (0, 1, 1) and prompt.counts == (1, 2) and prompt.gold == 0
    assert model.tokenizer.decode(prompt.tokens[-1:]).strip() == ":"
    assert list(prompt.tokens) == prompt_ids(model, prompt.text).tolist()


@given(order=st.permutations(PAIRS), gold=st.sampled_from(["foo", "bar"]))
def test_the_text_is_the_template(order, gold):
    model = tokenizers.model("byte_level")
    prompt = icl_prompt(model, order, "great", gold, labels=("foo", "bar"))
    assert prompt.text == " ".join(f"{text} : {label}" for text, label in order) + " great :"
    assert prompt.labels[prompt.gold] == gold


def test_labels_keep_the_order_given(model):
    assert icl_prompt(model, PAIRS, "great", "foo", labels=("bar", "foo")).sequence == (1, 0, 0)


def test_a_label_of_several_tokens_is_refused_by_their_names():
    model = tokenizers.model("byte_level")
    with pytest.raises(ValueError, match=r"the label 'foobar' must be one token .* it is \[' foo', 'bar'\]"):
        icl_prompt(model, [("great", "foo"), ("awful", "foobar")], "plot", "foo")
    with pytest.raises(ValueError, match=r"the label 'zebrafish' must be one token of the vocabulary .* \['<unk>'\]"):
        icl_prompt(demo.load(), [("great", "foo"), ("awful", "zebrafish")], "plot", "foo")


def test_labels_that_are_one_token_are_refused():
    model = tokenizers.model("byte_level")
    model.tokenizer = deepcopy(model.tokenizer)
    model.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    pairs = [("great", "foo"), ("awful", "bar"), ("plot", "Foo")]
    with pytest.raises(ValueError, match="the labels 'foo', 'Foo' are one token, which no answer tells apart"):
        icl_prompt(model, pairs, "plot", "foo")


def test_pieces_must_begin_at_token_boundaries():
    model = tokenizers.model("byte_level")
    with pytest.raises(ValueError, match="the tokenizer joins 'at' to what stands before it"):
        icl_prompt(model, [("gre", "at"), ("awful", "bar")], "plot", "bar", separator="")


@pytest.mark.parametrize(
    "pairs, query, gold, options, message",
    [
        ([], "great", "foo", {"labels": ("foo", "bar")}, "demonstrations is empty"),
        ([("great", "foo")], "great", "foo", {}, "labels must be at least two different words, got .'foo',."),
        ([("great", "foo")], "great", "foo", {"labels": ("foo", "bar")}, "every demonstration has the label 'foo'"),
        ([("great", "foo"), ("bad", "foo")], "good", "foo", {"labels": ("foo", "foo")}, "two different words"),
        (PAIRS, "great", "baz", {}, "the label 'baz' is none of .'foo', 'bar'."),
        ([("", "foo"), ("bad", "bar")], "great", "foo", {}, r"demonstrations\[0\] has no text"),
        (PAIRS, " ", "foo", {}, "query has no text"),
        (PAIRS * 30, "great", "foo", {}, "the prompt is .* tokens, the model's context 128"),
    ],
)
def test_what_is_no_in_context_prompt_is_refused(pairs, query, gold, options, message):
    with pytest.raises(ValueError, match=message):
        icl_prompt(demo.load(), pairs, query, gold, **options)


def test_a_model_without_a_tokenizer_is_named():
    model = architectures.build("llama")
    model.tokenizer = None
    with pytest.raises((ValueError, AssertionError), match="tokenizer"):
        icl_prompt(model, PAIRS, "great", "foo")


def test_label_positions_must_be_on_labels():
    prompt = icl_prompt(demo.load(), PAIRS, "a great plot", "foo")
    outside, beside, padded = (
        (*prompt.label_positions[:2], len(prompt)),
        (*prompt.label_positions[:2], prompt.label_positions[2] - 1),
        (0, *prompt.label_positions[1:]),
    )
    with pytest.raises(IndexError, match=r"label_positions\[2\] must lie between 0 and"):
        replace(prompt, label_positions=outside)
    with pytest.raises(ValueError, match=r"label_positions\[2\] = .* is not the label 'bar' .* padding"):
        replace(prompt, label_positions=beside)
    with pytest.raises(ValueError, match=r"label_positions\[0\] = 0 is on token 1, which is not the label 'foo'"):
        replace(prompt, label_positions=padded)
    with pytest.raises(ValueError, match="gold must be the index of a label, 0 to 1, got 2"):
        replace(prompt, gold=2)
