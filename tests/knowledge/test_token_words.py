import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr import demo
from tl_neuron_attr.knowledge import token_words as module
from tl_neuron_attr.knowledge.token_words import LISTED, TokenWords
from tl_neuron_attr.numerics.ranked_tokens import ranked_tokens


@pytest.fixture(scope="module")
def words():
    model = demo.load()
    _, cache = model.run_with_cache("3 + 5 =")
    return model, TokenWords(model, tna.scored(cache, "8").readout)


def test_words_are_told_from_reserved_tokens_and_punctuation(words):
    model, listing = words
    found = listing.listed([model.to_single_token(text) for text in ("basketball", "<bos>", "+", "golf")])
    assert found.is_word == (True, False, False, True)
    assert found.fragments == 2 and [token.strip() for token in found.readable] == ["basketball", "golf"]
    assert [token.strip() for token in found.words_first] == ["basketball", "golf", "<bos>", "+"]
    assert found.marked[1] == (found.tokens[1], False)


def test_what_a_direction_promotes_is_what_the_unembedding_makes_of_it(words):
    model, listing = words
    vectors = torch.randn(3, model.cfg.d_model)
    logits = (vectors * model.ln_final.w) @ model.W_U
    for found, row in zip(listing.promoted(vectors), logits, strict=True):
        assert list(found.tokens) == [model.to_single_str_token(i) for i in row.topk(LISTED).indices.tolist()]
    assert listing.promoted(vectors[:0]) == []


def test_without_a_tokenizer_every_token_counts(monkeypatch):
    model = architectures.build("gpt2", dtype=torch.float32)
    _, cache = model.run_with_cache(architectures.prompts(1))
    monkeypatch.setattr(model, "tokenizer", None)
    found = TokenWords(model, tna.scored(cache, 5).readout).listed([3, 7])
    assert found.tokens == ("#3", "#7") and found.is_word == (True, True)


def test_noted_vectors_are_ranked_with_the_next_and_none_twice(words, monkeypatch):
    model, _ = words
    listing, passes = TokenWords(model, words[1]._readout), []
    monkeypatch.setattr(module, "ranked_tokens", lambda *args: passes.append(len(args[1])) or ranked_tokens(*args))
    vectors = torch.randn(5, model.cfg.d_model)
    listing.note(vectors[:3], 7)
    listing.note(vectors[4:], 8)
    assert passes == []
    found = listing.ranked(vectors[2:4], 7) + listing.ranked(vectors[:3], 7) + listing.ranked(vectors[4:], 8)
    assert passes == [4, 1]
    alone = [
        TokenWords(model, words[1]._readout).ranked(vectors[i : i + 1], 7 + (i == 4))[0] for i in (2, 3, 0, 1, 2, 4)
    ]
    assert found == alone


def test_keys_of_all_tables_are_looked_at_in_one_pass(words, monkeypatch):
    model, listing = words[0], TokenWords(words[0], words[1]._readout)
    _, cache = model.run_with_cache("3 + 5 =")
    neurons, passes = tna.value_neurons(cache, "8", 6)[0], []
    counted = module.ranked_embeddings
    monkeypatch.setattr(module, "ranked_embeddings", lambda *a, **k: passes.append(len(a[1])) or counted(*a, **k))
    listing.note_keys(neurons.pick([0, 1]))
    found = listing.switched_on_by(neurons.pick([1, 2, 3])) + listing.switched_on_by(neurons.pick([0, 1]))
    assert passes == [4]
    expected = tna.key_tokens(model, neurons, LISTED).on
    assert [words.tokens for words in found] == [expected[i] for i in (1, 2, 3, 0, 1)]
