"""Files of neurons: what was saved is read back, and a malformed file is refused by the name of its field."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file

import tl_neuron_attr as tna
from tests import architectures


def test_a_file_gives_back_what_was_saved_with_its_words(batch, tmp_path):
    batch.save(tmp_path / "found.safetensors")
    again = tna.Neurons.load(tmp_path / "found.safetensors")
    assert str(again) == str(batch) and again.labels == batch.labels
    assert torch.equal(again.score, batch.score) and torch.equal(again.evaluated, batch.evaluated)
    again[1].save(tmp_path / "one.safetensors")
    assert str(tna.Neurons.load(tmp_path / "one.safetensors")) == str(batch[1])
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["found.safetensors", "one.safetensors"]


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
