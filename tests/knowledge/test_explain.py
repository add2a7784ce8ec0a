"""A continuation explained token by token."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures


@pytest.fixture(scope="module")
def model():
    return architectures.build("llama")


@pytest.fixture(scope="module")
def found(model):
    return tna.explain(model, "w1 w2 w3", max_new_tokens=4, k=5)


@torch.no_grad()
def test_each_token_is_the_likeliest_and_explained_as_if_it_were_the_last(model, found):
    ids = tna.Answer.of(model, "<bos> w1 w2 w3").tokens
    for i, token in enumerate(found.tokens):
        logits, cache = model.run_with_cache(torch.tensor([ids]))
        best = int(logits[0, -1].argmax())
        assert model.tokenizer.decode([best]) == token
        assert float(found.prob[i]) == pytest.approx(float(logits[0, -1].softmax(-1)[best]), abs=1e-6)
        layers = tna.attribute_layers(cache, best)
        torch.testing.assert_close(found.layers.mlp[i], layers.mlp[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(found.heads[i], tna.attribute_heads(cache, best)[0], atol=1e-6, rtol=0)
        assert found.neurons[i].labels == tna.value_neurons(cache, best, k=5)[0].labels
        ids = (*ids, best)
    assert len(found.tokens) == 4 and found.text == " ".join(found.tokens)


def test_a_row_names_the_best_of_each_kind(found):
    frame = found.to_frame()
    assert list(frame["token"]) == list(found.tokens)
    for i, row in enumerate(frame.to_dict("records")):
        assert row["neuron"] == found.neurons[i].labels[0]
        assert row["neuron_score"] == pytest.approx(float(found.neurons[i].score.max()))
        assert row["head_score"] == pytest.approx(float(found.heads[i].max()))
        assert row["layer_score"] == pytest.approx(
            float(torch.stack([found.layers.attn[i], found.layers.mlp[i]]).max())
        )
    assert "<table" in found._repr_html_() and "best neuron" in str(found)


def test_it_ends_where_the_text_ends():
    found = tna.explain(tna.demo.load(), "Tim Duncan plays the sport of", max_new_tokens=2, k=2)
    assert found.tokens == ("basketball", ".") and found.text == "basketball ."
    model = architectures.build("llama")
    first = int(model("w1 w2").detach()[0, -1].argmax())
    before = model.tokenizer.eos_token
    try:
        model.tokenizer.eos_token = model.tokenizer.convert_ids_to_tokens(first)
        assert len(tna.explain(model, "w1 w2", max_new_tokens=5, k=1).tokens) == 1
    finally:
        model.tokenizer.eos_token = before


def test_token_ids_are_a_prompt_too(model, found):
    again = tna.explain(model, torch.tensor([93, 1, 2, 3]), max_new_tokens=1, k=5)
    assert again.tokens == found.tokens[:1] and again.neurons[0].labels == found.neurons[0].labels


def test_what_cannot_be_continued_is_refused(model):
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, got 0"):
        tna.explain(model, "w1", max_new_tokens=0)
    with pytest.raises(ValueError, match="no room for another"):
        tna.explain(model, torch.arange(64))
    long = [architectures.prompts(1, 62, seed=seed)[0] for seed in range(3)]
    said = [len(tna.explain(model, ids, max_new_tokens=9, k=1).tokens) for ids in long]
    assert max(said) == 2  # as far as the context goes


def test_a_model_that_names_no_context_is_explained_to_the_end_asked_for():
    model = architectures.build("llama")
    model.cfg.n_ctx = None
    assert len(tna.explain(model, "w1 w2 w3", max_new_tokens=3, k=2).tokens) == 3
