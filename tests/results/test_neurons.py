"""Results: their tables, frames, files, and what a malformed file is answered with."""

import copy
import gc
import json
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.numerics.sublayer import SITES


@pytest.fixture(scope="module")
def batch():
    _, cache = architectures.run("gpt2", dtype=torch.float32)
    return tna.value_neurons(cache, 5, 6)


@pytest.fixture
def one(batch):
    return batch[0]


def test_labels_name_site_layer_head_dimension_and_source(one):
    for label, site, layer, head, index, source in zip(
        one.labels, one.site, one.layer, one.head, one.index, one.source, strict=True
    ):
        mlp, attn = f"L{layer}N{index}", f"L{layer}H{head}D{index}@{source}"
        assert label == (mlp if SITES[int(site)] == "mlp" else attn)
        assert (int(head) == -1) == (int(source) == -1) == (SITES[int(site)] == "mlp")


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


def test_terminal_and_notebook_print_the_same_table(one):
    text, html = repr(one), one._repr_html_()
    assert str(one) == text
    for label, score in zip(one.labels, one.score.tolist(), strict=True):
        assert label in text and label in html
        assert f"{score:.4f}" in text and f"{score:.4f}" in html
    for heading in ("rank", "neuron", "source", "coefficient", "score", "promotes"):
        assert heading in text and heading in html


def test_the_source_token_is_the_prompts(one):
    words = [f"w{i}" for i in architectures.prompts()[0].tolist()]
    frame = one.to_frame()
    for source, token in zip(frame["source"], frame["source_token"], strict=True):
        assert token == (words[source] if source >= 0 else "")


def test_the_frame_has_a_row_a_neuron_and_prompt(batch):
    frame = batch.to_frame()
    assert len(frame) == 12 and frame["prompt"].tolist() == [0] * 6 + [1] * 6
    assert frame["rank"].tolist() == [1, 2, 3, 4, 5, 6] * 2
    torch.testing.assert_close(torch.tensor(frame["score"].tolist()), batch.score.flatten())
    assert frame["neuron"].tolist() == batch.flat_labels


def test_layer_scores_print_and_become_a_frame():
    _, cache = architectures.run("gpt2", dtype=torch.float32)
    scores = tna.attribute_layers(cache, 5)
    assert "mean of 2 prompts" in str(scores)
    frame = scores.to_frame()
    assert len(frame) == 2 * 2 * architectures.LAYERS
    picked = frame[(frame.prompt == 1) & (frame.layer == 2) & (frame.site == "mlp")]
    assert picked["score"].item() == pytest.approx(float(scores.mlp[1, 2]))


def test_a_file_gives_back_what_was_saved_with_its_words(batch, tmp_path):
    batch.save(tmp_path / "found.safetensors")
    again = tna.Neurons.load(tmp_path / "found.safetensors")
    assert str(again) == str(batch) and again.labels == batch.labels
    assert torch.equal(again.score, batch.score) and torch.equal(again.evaluated, batch.evaluated)
    again[1].save(tmp_path / "one.safetensors")
    assert str(tna.Neurons.load(tmp_path / "one.safetensors")) == str(batch[1])
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["found.safetensors", "one.safetensors"]


def test_neurons_without_words_still_print_and_save(one, tmp_path):
    bare = tna.Neurons(*(getattr(one, f) for f in ("site", "layer", "head", "source", "index", "coefficient", "score")))
    assert "promotes" not in str(bare) and one.labels[0] in str(bare)
    bare.save(tmp_path / "bare")
    assert tna.Neurons.load(tmp_path / "bare").labels == one.labels


def spoiled(path, tmp_path, *, tensors=None, header=None):
    with safe_open(path, "pt") as file:
        text = json.loads(file.metadata()["tl_neuron_attr"])
    text = header(text) if header else text
    stored = load_file(path)
    if tensors:
        tensors(stored)
    save_file(stored, tmp_path / "bad", {"tl_neuron_attr": text if isinstance(text, str) else json.dumps(text)})
    return tmp_path / "bad"


@pytest.mark.parametrize(
    "header, message",
    [
        (lambda h: "{", "header field 'tl_neuron_attr' is missing or malformed"),
        (lambda h: h | {"schema": "other"}, "field 'schema' is 'other'"),
        (lambda h: h | {"version": 99}, "field 'version' is 99, this release reads 1"),
        (lambda h: h | {"version": True}, "field 'version' is True, this release reads 1"),
        (lambda h: "[" * 10**5, "header field 'tl_neuron_attr' is missing or malformed"),
        (lambda h: h | {"text": h["text"] | {"order": "any"}}, "field 'text.order' is 'any'"),
        (
            lambda h: h | {"text": h["text"] | {"order": "ascending"}},
            "field 'score' is descending, the header says asc",
        ),
        (lambda h: h | {"text": []}, "field 'text' must be an object"),
        (lambda h: h | {"text": {"sources": 5, "promoted": {}}}, "field 'text.sources' must hold lists"),
        (lambda h: h | {"text": {"sources": [], "promoted": {"a": 5}}}, "field 'text.promoted' must map names"),
        (lambda h: h | {"text": {"sources": [], "promoted": {}}}, "field 'text.promoted' lacks"),
    ],
)
def test_a_malformed_header_is_named(one, tmp_path, header, message):
    one.save(tmp_path / "good")
    with pytest.raises(ValueError, match=message):
        tna.Neurons.load(spoiled(tmp_path / "good", tmp_path, header=header))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("layer"), "field 'layer' is missing"),
        (lambda t: t.update(extra=torch.ones(1)), "field 'extra' is unknown"),
        (lambda t: t.update(score=torch.ones(2)), r"field 'score' is torch.float32 \(2,\), expected a float \(6,\)"),
        (lambda t: t.update(layer=torch.ones(6)), "field 'layer' is torch.float32"),
        (lambda t: t["score"].__setitem__(2, torch.nan), "field 'score' holds NaN or Inf"),
        (lambda t: t["coefficient"].__setitem__(0, torch.inf), "field 'coefficient' holds NaN or Inf"),
        (lambda t: t.update(score=t["score"].roll(1)), "field 'score' is unsorted, the header says descending"),
        (lambda t: t.update(score=t["score"].flip(0).clone()), "field 'score' is ascending"),
        (lambda t: t["site"].__setitem__(0, 2), "field 'site' holds 2, expected 0 for attention or 1 for MLP"),
        (lambda t: t["layer"].__setitem__(0, -1), "field 'layer' holds -1, expected 0 or above"),
        (lambda t: t["index"].__setitem__(5, -3), "field 'index' holds -3"),
        (lambda t: t["head"].sub_(2), "field 'head' holds"),
        (lambda t: t["source"].sub_(5), "field 'source' holds"),
        (lambda t: t.update(evaluated=torch.ones(2, dtype=torch.int64)), r"field 'evaluated' is torch.int64 \(2,\)"),
        (lambda t: t.update({n: x[None, None].clone() for n, x in t.items()}), r"has shape \(1, 1, 6\), expected"),
    ],
)
def test_a_malformed_field_is_named(one, tmp_path, change, message):
    one.save(tmp_path / "good")
    with pytest.raises(ValueError, match=message):
        tna.Neurons.load(spoiled(tmp_path / "good", tmp_path, tensors=change))


def test_a_pickle_is_never_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    (tmp_path / "trap").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="is not a result file"):
        tna.Neurons.load(tmp_path / "trap")
    assert not (tmp_path / "executed").exists()
    with pytest.raises(FileNotFoundError, match="no result file"):
        tna.Neurons.load(tmp_path / "absent")


def test_a_failed_save_leaves_nothing_behind(one, tmp_path, monkeypatch):
    one.save(tmp_path / "kept")
    before = (tmp_path / "kept").read_bytes()
    monkeypatch.setattr(
        "tl_neuron_attr.results.storage.save_file", lambda *_: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        one.save(tmp_path / "kept")
    assert (tmp_path / "kept").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_a_file_without_its_order_must_be_sorted(one, tmp_path):
    one.save(tmp_path / "good")
    bare = spoiled(tmp_path / "good", tmp_path, header=lambda h: h | {"text": {}})
    assert tna.Neurons.load(bare).labels == one.labels
    spoilt = spoiled(tmp_path / "bad", tmp_path, tensors=lambda t: t.update(score=t["score"].roll(1)))
    with pytest.raises(ValueError, match="field 'score' is not sorted"):
        tna.Neurons.load(spoilt)


def test_neurons_in_any_order_are_saved_and_loaded(batch, tmp_path):
    _, cache = architectures.run("gpt2", dtype=torch.float32)
    for neurons in (batch[0].pick([3, 0, 5]), tna.value_neurons(cache, 5, 6, largest=False), batch.top(1)):
        neurons.save(tmp_path / "any")
        assert tna.Neurons.load(tmp_path / "any") == neurons


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
