"""Answers as tokens of a model."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures


@pytest.fixture(scope="module")
def llama():
    return architectures.build("llama")


def test_text_and_ids_give_the_same_answer(llama):
    assert (
        tna.Answer.of(llama, "w5 w17") == tna.Answer.of(llama, torch.tensor([5, 17])) == tna.Answer((5, 17), "w5 w17")
    )
    assert len(tna.Answer.of(llama, "w5 w17")) == 2


def test_without_a_tokenizer_only_ids_are_taken():
    native = architectures.native()
    assert tna.Answer.of(native, [5, 6]).text == ""
    with pytest.raises(ValueError, match="is a string and the model has no tokenizer: pass token ids"):
        tna.Answer.of(native, "w5")


class HalfAnEuro:
    """A tokenizer whose tokens are bytes."""

    unk_token_id = None

    def decode(self, ids, **_):
        return bytes(ids).decode("utf-8", errors="replace")

    def encode(self, text, **_):
        return list(text.encode())


class ByteModel:
    tokenizer, W_U = HalfAnEuro(), torch.zeros(1, 256)


def test_an_answer_that_ends_within_a_character_is_refused():
    euro = list("5 \u20ac".encode())
    assert tna.Answer.of(ByteModel(), euro).text == "5 \u20ac"
    with pytest.raises(ValueError, match=r"answer \[53, 32, 226, 130\] ends within a character, '5 .'"):
        tna.Answer.of(ByteModel(), euro[:-1])
    with pytest.raises(ValueError, match="holds half a character, which no tokenizer reads"):
        tna.Answer.of(ByteModel(), "\ud83d")


def test_a_set_holds_answers():
    with pytest.raises(ValueError, match="give at least one answer"):
        tna.any_of()
    with pytest.raises(ValueError, match="answer is empty"):
        tna.Answer(())
    with pytest.raises(TypeError, match="any_of"):
        tna.any_of(1.5)


def test_sets_whose_answers_overlap_are_refused(llama):
    _, cache = llama.run_with_cache(architectures.prompts(1, 5))
    with pytest.raises(ValueError, match="target overlaps: 'w5' begins with 'w5'"):
        tna.scored(cache, tna.any_of("w5", 5))
    with pytest.raises(ValueError, match="contrast overlaps"):
        tna.scored(cache, "w1", contrast=tna.any_of("w5", 5))
    with pytest.raises(IndexError, match="must hold token ids between 0 and 96, got 97"):
        tna.scored(cache, tna.any_of(97))


def test_every_id_of_the_vocabulary_is_an_answer():
    model = architectures.build("llama")
    assert [tna.Answer.of(model, [token]).tokens for token in (0, 96)] == [(0,), (96,)]
    for token in (-1, 97):
        with pytest.raises(IndexError, match="must hold token ids between 0 and 96"):
            tna.Answer.of(model, [token])
