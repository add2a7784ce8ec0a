"""The list of models: what it says of each, and that it says so whether or not they are installed."""

from importlib.metadata import PackageNotFoundError

from tl_neuron_attr.model import packaged_models
from tl_neuron_attr.model.gguf_conversion import package_key
from tl_neuron_attr.model.model_cache import cached_folder


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
