"""Neurons: indexed, compared, copied, and independent of the model they came from."""

import copy
import gc
import pickle
from dataclasses import replace

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures


def test_a_batch_is_indexed_by_prompt(batch):
    assert len(batch) == 6 and batch.batched and not batch[1].batched
    assert batch[-1].labels == batch.labels[1]
    assert torch.equal(batch[1].score, batch.score[1])
    assert batch[0].evaluated.ndim == 0
    with pytest.raises(IndexError, match="prompt must lie between -2 and 1, got 2"):
        batch[2]
    for at in (0, slice(2)):
        with pytest.raises(TypeError, match=r"single prompt.* use top\(k\)"):
            batch[0][at]
    for at in (True, "0", 0.0):
        with pytest.raises(TypeError, match="prompt must be a number or a slice"):
            batch[at]


def test_a_slice_of_prompts_is_a_batch_of_them(batch):
    assert batch[:1].batched and batch[:1][0] == batch[0]
    assert batch[::-1] != batch and batch[::-1][0] == batch[1]
    assert str(batch[1:][0]) == str(batch[1])
    with pytest.raises(IndexError, match="none of the 2 prompts"):
        batch[5:]


def test_iterating_goes_over_the_prompts_and_ends(batch, one):
    assert list(batch) == [batch[0], batch[1]]
    with pytest.raises(TypeError, match="single prompt"):
        list(one)


def test_copies_are_equal_and_say_the_same(batch):
    for again in (pickle.loads(pickle.dumps(batch)), copy.deepcopy(batch), copy.copy(batch)):
        assert again == batch and str(again) == str(batch)
        assert again.to_frame().equals(batch.to_frame())


@pytest.mark.parametrize(
    "change",
    [
        lambda n: {"score": n.score + 1},
        lambda n: {"coefficient": -n.coefficient},
        lambda n: {"layer": n.layer.flip(-1)},
        lambda n: {"score": n.score.double()},
        lambda n: {"text": None},
        lambda n: {"text": replace(n.text, promoted={})},
    ],
)
def test_neurons_that_differ_in_anything_said_are_not_equal(batch, change):
    assert replace(batch, **change(batch)) != batch
    assert batch != batch.labels and batch != 5
    assert batch[0] != batch[0].top(3)


def test_attention_neurons_that_read_other_tokens_are_not_equal():
    _, cache = architectures.run("gpt2", dtype=torch.float32)
    found = tna.value_neurons(cache, 5, 6, sites=("attn",))
    assert replace(found, text=replace(found.text, sources=found.text.sources[::-1])) != found
    assert found == tna.value_neurons(cache, 5, 6, sites=("attn",))


def test_a_result_says_the_same_after_its_model_was_edited_or_freed(tmp_path):
    model, tokens = architectures.build("gpt2", dtype=torch.float32), architectures.prompts()
    model = copy.deepcopy(model)
    _, cache = model.run_with_cache(tokens)
    value = tna.value_neurons(cache, 5, 6)
    query = tna.query_neurons(cache, value, 6)
    compared = tna.cna.compare_neurons(cache, cache, 5)
    results = (value, query, compared, compared.top(3), tna.attribute_layers(cache, 5))
    before = [(str(r), r._repr_html_(), r.to_frame()) for r in results]
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    after = [(str(r), r._repr_html_(), r.to_frame()) for r in results]
    del model, cache
    gc.collect()
    freed = [(str(r), r._repr_html_(), r.to_frame()) for r in results]
    for (text, html, frame), *others in zip(before, after, freed, strict=True):
        assert all(text == t and html == h and frame.equals(f) for t, h, f in others)
    value.save(tmp_path / "late")
    assert str(tna.Neurons.load(tmp_path / "late")) == before[0][0]


def test_promoted_tokens_are_those_of_top_tokens(batch):
    model = architectures.build("gpt2", dtype=torch.float32)
    expected = tna.top_tokens(model, batch, 6).promoted
    assert [tuple(tokens) for tokens in batch.to_frame()["promoted"]] == list(expected)


def test_text_can_be_left_out_and_nothing_else_changes(batch):
    _, cache = architectures.run("gpt2", dtype=torch.float32)
    value = tna.value_neurons(cache, 5, 6, text=False)
    assert value.text is None and value == replace(batch, text=None)
    assert tna.query_neurons(cache, value, 6, text=False) == replace(tna.query_neurons(cache, batch, 6), text=None)


def test_neurons_by_layer_and_index(batch):
    one = batch[0].of_site("mlp")
    again = tna.Neurons.of_mlp(one.layer, one.index, coefficient=one.coefficient, score=one.score, text=one.text)
    assert again == one


def test_top_takes_the_first(one):
    assert one.top(2).labels == one.labels[:2]
    for k in (0, 7):
        with pytest.raises(ValueError, match=f"k must be between 1 and 6, got {k}"):
            one.top(k)


@pytest.mark.parametrize("odd", [True, 1.0, float("nan"), "1", None])
def test_what_is_no_whole_number_is_refused_by_the_argument_it_was_given_for(one, odd):
    for call, name in ((one.top, "k"), (one.mlp_indices, "layer"), (lambda x: one.pick([0, x]), "places")):
        with pytest.raises(TypeError, match=rf"{name}(\[1\])? must be an int, got") as raised:
            call(odd)
        assert len(str(raised.value).splitlines()) <= 3


@pytest.mark.parametrize("place", [-1, 6])
def test_a_place_outside_of_the_ranking_is_refused(one, place):
    with pytest.raises(IndexError, match=f"places must lie between 0 and 5, got {place}"):
        one.pick([0, place])


def test_a_layer_below_0_and_a_site_that_is_none_are_refused(one):
    with pytest.raises(IndexError, match="layer must be 0 or more, got -1"):
        one.mlp_indices(-1)
    with pytest.raises(TypeError, match="site must be 'attn' or 'mlp', got 'head'"):
        one.of_site("head")


def test_places_are_counted_from_0_in_the_order_given(one):
    assert one.pick([2, 0]).labels == [one.labels[2], one.labels[0]]


def test_neurons_without_words_still_print_and_save(one, tmp_path):
    bare = tna.Neurons(*(getattr(one, f) for f in ("site", "layer", "head", "source", "index", "coefficient", "score")))
    assert "promotes" not in str(bare) and one.labels[0] in str(bare)
    bare.save(tmp_path / "bare")
    assert tna.Neurons.load(tmp_path / "bare").labels == one.labels


def test_results_are_frozen(one):
    with pytest.raises(AttributeError):
        one.score = one.score + 1


def test_indices_and_heads_are_what_other_tools_take(one, batch):
    mlp = [(layer, i) for site, layer, i in zip(one.site, one.layer, one.index, strict=True) if site == 1]
    for layer in {int(layer) for layer in one.layer}:
        assert one.mlp_indices(layer).tolist() == [i for at, i in mlp if at == layer]
    pairs = [(int(la), int(h)) for la, h in zip(one.layer, one.head, strict=True) if h >= 0]
    assert one.heads == sorted(set(pairs), key=pairs.index)
    assert one.unsqueeze().heads == one.heads
    with pytest.raises(TypeError, match=f"{len(batch.score)} prompts"):
        _ = batch.heads


def test_labels_of_a_single_prompt_are_not_nested(one, batch):
    alone = batch[:1]
    assert alone.batched and alone.score.shape == (1, 6)
    assert alone.labels == batch[0].labels and len(alone.labels[:5]) == 5
    assert batch.labels == [batch[0].labels, batch[1].labels] and one.labels == one.flat_labels


def test_readable_tables_and_frames_hold_words_only_and_count_the_rest():
    model = tna.demo.load()
    _, cache = model.run_with_cache("Tim Duncan plays the sport of basketball")
    found = tna.value_neurons(cache, ".", k=10)
    every, words = found.to_frame(), found.to_frame(readable=True)
    for before, after in zip(every["promoted"], words["promoted"], strict=True):
        assert after == [token for token in before if token.isalnum()]
    left_out = sum(map(len, every["promoted"])) - sum(map(len, words["promoted"]))
    assert words.attrs["left_out"] == left_out > 0
    assert f"{left_out} promoted tokens that are no words left out" in str(found.table(readable=True).caption)
    with pytest.raises(ValueError, match="readable=True needs the tokens that neurons promote"):
        tna.value_neurons(cache, ".", k=3, text=False).table(readable=True)
