"""GGUF files converted: the numbers of the model that was written, or a refusal and nothing in the cache."""

import json
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests import gguf_files
from tl_neuron_attr.model import gguf_conversion
from tl_neuron_attr.model.gguf_conversion import PROVENANCE, converted_file, converted_package, package_key, provenance
from tl_neuron_attr.model.loading import load
from tl_neuron_attr.model.packaged_models import PACKAGED_MODELS, sha256_of
from tl_neuron_attr.model.tokens import prompt_ids

TEXT = "in the beginning"
ROUNDING = 1e-6
"""Of float32: a bridge sums its attention in another order than plain transformers."""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TNA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def nothing_kept(cache):
    return not cache.exists() or not [path for path in cache.iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize("kind", [None, gguf.GGMLQuantizationType.Q8_0], ids=["F32", "Q8_0"])
def test_the_bridge_computes_what_the_written_model_computes(cache, tmp_path, kind):
    written = gguf_files.llama()
    file = gguf_files.write(tmp_path / "tiny.gguf", written, kind=kind)
    expected = written if kind is None else gguf_files.quantised(written, kind)
    model = load(file)
    ids = prompt_ids(model, TEXT)[None]
    torch.testing.assert_close(model(ids), expected(ids).logits, rtol=0, atol=ROUNDING)
    assert model.cfg.model_name == f"Tiny (dequantised from {'F32' if kind is None else 'Q8_0'})"


def test_the_tokenizer_is_the_files(cache, tmp_path):
    folder = converted_file(gguf_files.write(tmp_path / "tiny.gguf", gguf_files.llama()))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("in the", add_special_tokens=False).input_ids
    assert [gguf_files.TOKENS[i] for i in ids] == ["i", "n", "Ġthe"]


@pytest.mark.parametrize("stated", [True, False])
def test_texts_begin_with_bos_where_the_file_says_so(cache, tmp_path, stated):
    model = load(gguf_files.write(tmp_path / "tiny.gguf", gguf_files.llama(), add_bos=stated))
    _, run = model.run_with_cache(TEXT)
    begins = [gguf_files.BOS] if stated else [gguf_files.TOKENS.index("i")]
    assert model.to_tokens(TEXT)[0, :1].tolist() == begins and run["hook_embed"].shape[1] == len(
        model.to_tokens(TEXT)[0]
    )
    assert model.to_tokens(TEXT)[0].tolist() == prompt_ids(model, TEXT).tolist()


def test_it_is_an_ordinary_checkpoint_made_once(cache, tmp_path):
    file = gguf_files.write(tmp_path / "tiny.gguf", gguf_files.llama())
    folder = converted_file(file)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert converted_file(file) == folder and {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    plain = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.arange(5)[None]
    assert torch.equal(plain(ids).logits, gguf_files.llama()(ids).logits)
    assert provenance(folder)["sha256"] == sha256_of([file])
    gguf_files.write(file, gguf_files.llama(), add_bos=False)
    assert converted_file(file) != folder  # the content is the key, not the name


def test_the_folder_loads_as_the_file_does(cache, tmp_path):
    file = gguf_files.write(tmp_path / "tiny.gguf", gguf_files.llama(), add_bos=False)
    model = load(converted_file(file))
    assert model.cfg.model_name == "Tiny (dequantised from F32)" and model.cfg.default_prepend_bos is False


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"architecture": "command-r"}, "'command-r', which transformers cannot read .*\n.*gemma3.*llama"),
        ({"without": ("blk.1.ffn_up.weight",)}, "lacks weights .*layers.1.mlp.up_proj"),
        (
            {"more": {"llama.rope.scaling.type": "linear"}},
            "sets llama.rope.scaling.type, which",
        ),
        ({"more": {"llama.logit_scale": 0.5}}, "sets llama.logit_scale"),
    ],
)
def test_what_would_be_read_wrongly_is_refused(cache, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        converted_file(gguf_files.write(tmp_path / "tiny.gguf", gguf_files.llama(), **changes))
    assert nothing_kept(cache)


def test_a_file_cut_off_is_refused_and_nothing_kept(cache, tmp_path):
    file = gguf_files.write(tmp_path / "tiny.gguf", gguf_files.llama())
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(ValueError, match="is cut off"):
        load(str(file))
    assert nothing_kept(cache)
    with pytest.raises(FileNotFoundError, match="there is no GGUF file"):
        load(str(tmp_path / "none.gguf"))


def test_without_the_reader_the_extra_is_named(cache, tmp_path, monkeypatch):
    file = gguf_files.write(tmp_path / "tiny.gguf", gguf_files.llama())
    monkeypatch.setattr(gguf_conversion, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"pip install 'tl_neuron_attr\[gguf\]'"):
        load(file)


def test_a_damaged_note_beside_the_weights_is_named(cache, tmp_path):
    folder = converted_file(gguf_files.write(tmp_path / "tiny.gguf", gguf_files.llama()))
    for content in ("{", json.dumps({"name": "x"}), json.dumps({"name": "x", "prepend_bos": "no"}), "[]"):
        (folder / PROVENANCE).write_text(content)
        with pytest.raises(ValueError, match=r"dequantised.json is damaged .*: delete"):
            load(folder)


@pytest.fixture
def packaged(cache, tmp_path, monkeypatch):
    """A packaged model in two parts that a fake package index knows."""
    from dataclasses import replace

    whole = gguf_files.write(tmp_path / "tiny.gguf", gguf_files.llama()).read_bytes()
    parts = [tmp_path / "a", tmp_path / "b"]
    for part, content in zip(parts, (whole[:1000], whole[1000:]), strict=True):
        part.write_bytes(content)
    known = replace(
        PACKAGED_MODELS["gemma3-270m"], title="Parts", sha256=sha256_of([tmp_path / "tiny.gguf"]), size=1000
    )
    monkeypatch.setitem(PACKAGED_MODELS, "gemma3-270m", known)
    monkeypatch.setattr(gguf_conversion, "installed_parts", lambda _: parts)
    return parts


def test_parts_are_joined_checked_and_later_not_needed(packaged, cache, monkeypatch):
    model = load("gemma3-270m")
    ids = torch.arange(5)[None]
    torch.testing.assert_close(model(ids), gguf_files.llama()(ids).logits, rtol=0, atol=ROUNDING)
    assert model.cfg.model_name == "Parts (Gemma terms of use; dequantised from F32)"
    assert not (cache / package_key("gemma3-270m") / "model.gguf").exists()
    monkeypatch.setattr(gguf_conversion, "installed_parts", lambda _: pytest.fail("the parts were looked for"))
    assert converted_package("gemma3-270m") == cache / package_key("gemma3-270m")


@pytest.mark.parametrize("short", [0, 1])
def test_room_for_nine_times_the_file_is_asked_for_and_no_more(packaged, cache, monkeypatch, short):
    """Half a byte a weight becomes four, and the joined file lies beside them."""
    free = 9 * PACKAGED_MODELS["gemma3-270m"].size - short
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(OSError, match="could not be kept") if short else nullcontext():
        converted_package("gemma3-270m")


def test_other_bytes_than_the_published_are_refused_by_their_checksum(packaged, cache):
    packaged.reverse()
    with pytest.raises(ValueError, match=f"its SHA-256 is {sha256_of(packaged)}"):
        load("gemma3-270m")
    assert nothing_kept(cache)
