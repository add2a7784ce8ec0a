"""Models by name: what each kind of name loads, and what a wrong one is told."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.model import loading, model_names


def test_the_bundled_model_and_a_directory(tmp_path):
    demo = tna.load("demo")
    assert demo.cfg.model_name == "tl_neuron_attr demo" and not demo.training
    model = architectures.BUILDERS["llama"]()
    model.save_pretrained(tmp_path)
    architectures.tokenizer().save_pretrained(tmp_path)
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(tna.load(tmp_path, device="cpu")(ids), model.eval()(ids).logits, rtol=0, atol=1e-6)
    assert tna.load(tmp_path, dtype=torch.float64)(ids).dtype == torch.float64


def test_a_wrong_name_is_told_every_kind():
    with pytest.raises(OSError, match=r"(?s)'/no/such/folder' could not be loaded: .*give demo, smollm2-135m.*gguf"):
        tna.load("/no/such/folder")


@pytest.mark.parametrize("name", ["/no/such/folder", "./nope", "~/nope", "a/b/c", "no such model"])
def test_a_path_that_does_not_exist_is_not_looked_for_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(model_names.HfApi, "model_info", lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(FileNotFoundError, match="there is no such path"):
        tna.load(name)


def test_a_name_that_the_hub_lacks_never_reaches_the_loader_and_its_retries(monkeypatch):
    def refuse(name):
        raise FileNotFoundError(model_names.not_loaded(name, "the hub lacks it"))

    monkeypatch.setattr(loading, "require_model_on_hub", refuse)
    monkeypatch.setattr(loading.TransformerBridge, "boot_transformers", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(FileNotFoundError, match="did you mean gemma3-270m"):
        tna.load("gemma3-27m")


def test_a_file_that_is_no_gguf_file_is_told_apart(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(NotADirectoryError, match=r"is a file and no \.gguf file: give the directory it lies in"):
        tna.load(tmp_path / "model.safetensors")


@pytest.mark.parametrize("device, message", [("cuda:0", "torch finds no CUDA device"), ("gpu", "no device of torch")])
def test_a_device_that_is_not_there_is_refused_before_anything_is_read(device, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(loading, "provenance", lambda _: pytest.fail("the model was looked at"))
    with pytest.raises(ValueError, match=f"device='{device}' .*{message}"):
        tna.load("demo", device=device)


@pytest.mark.parametrize("found", [True, False])
@pytest.mark.parametrize("asked", [None, "cpu"])
def test_a_gpu_is_used_where_there_is_one_and_no_device_is_named(found, asked, monkeypatch):
    chosen = []
    booted = loading.TransformerBridge.boot_transformers

    def boot(folder, *, device, dtype):
        chosen.append(device)
        return booted(folder, device="cpu", dtype=dtype)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: found)
    monkeypatch.setattr(loading.TransformerBridge, "boot_transformers", boot)
    tna.load("demo", device=asked)
    assert chosen == ["cuda" if found and asked is None else "cpu"]


def test_an_empty_name_is_no_model(monkeypatch):
    monkeypatch.setattr(loading, "provenance", lambda _: pytest.fail("a folder was looked at"))
    with pytest.raises(ValueError, match="name is empty"):
        tna.load("")
