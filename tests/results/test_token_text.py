"""The text of tokens: leading spaces kept, control characters shown, nothing that no file could hold."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import architectures
from tl_neuron_attr.results.token_text import encodable, printable, text_of, token_text, token_texts, visible


def sentencepiece(pieces):
    """A tokenizer whose ``decode`` drops the leading space, as those of SentencePiece do."""
    return SimpleNamespace(
        decode=lambda ids, clean_up_tokenization_spaces: pieces[ids[0]].replace("\u2581", " ").lstrip(),
        convert_ids_to_tokens=lambda token: pieces[token],
    )


def test_a_leading_space_is_kept_where_decoding_drops_it():
    model = SimpleNamespace(tokenizer=sentencepiece(["\u2581Rome", "Rome", "\u2581"]))
    assert [token_text(model, token) for token in range(3)] == [" Rome", "Rome", " "]


def test_a_model_without_a_tokenizer_has_numbers():
    assert token_text(SimpleNamespace(tokenizer=None), 7) == "#7"
    assert token_texts(SimpleNamespace(tokenizer=None), [[7, 2], [], [2]]) == (("#7", "#2"), (), ("#2",))


def test_the_tokens_of_a_text_put_together_are_the_text():
    pieces = ["\u2581The", "\u2581cap", "ital", ",", "\u2581of"]
    model = SimpleNamespace(tokenizer=sentencepiece(pieces))
    assert "".join(token_text(model, token) for token in range(len(pieces))) == " The capital, of"


@pytest.mark.parametrize(
    "text, expected",
    [
        (" Rome", "␣Rome"),
        ("  a b ", "␣␣a b␣"),
        ("  ", "␣␣"),
        ("", ""),
        ("\n", "\\n"),
        (" \t.", "␣\\t."),
        ("\u202eabc", "\\u202eabc"),
        ("\u00e9", "\u00e9"),
    ],
)
def test_spaces_at_the_ends_and_control_characters_are_shown(text, expected):
    assert visible(text) == expected


@given(st.text(alphabet=st.characters()))
def test_whatever_the_text_it_is_shown_on_one_printable_line(text):
    shown = visible(text)
    assert shown.isprintable() and not shown.startswith(" ") and len(shown.splitlines()) <= 1
    assert printable(printable(text)) == printable(text)


@given(st.text(alphabet=st.characters(codec=None)))
def test_whatever_the_text_it_can_be_written_and_whole_text_is_left_as_it_is(text):
    assert encodable(text).encode().decode() == encodable(text)
    if not any("\ud800" <= c <= "\udfff" for c in text):
        assert encodable(text) == text


def test_a_lone_surrogate_is_shown_by_its_escape():
    assert encodable("a\ud83db") == "a\\ud83db"


def test_tokens_that_follow_one_another_are_read_as_one_text():
    model = architectures.build("llama")
    assert text_of(model, [5, 17]) == "w5 w17" and text_of(model, [5]) == "w5"
    assert text_of(architectures.native(), [5, 17]) == "#5 #17"
