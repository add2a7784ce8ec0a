import subprocess
import sys

import pytest

import tl_neuron_attr as tna


def test_every_public_name_is_there_and_listed():
    assert set(tna.__all__) == set(tna._HOME) | set(tna._MODULES)
    for name in tna.__all__:
        assert getattr(tna, name).__name__.endswith(name)
        assert name in dir(tna)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'attribute_everything'"):
        tna.attribute_everything  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, tl_neuron_attr; print([m for m in ('torch', 'transformer_lens') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_version_is_the_projects():
    from importlib.metadata import version

    assert tna.__version__ == version("tl_neuron_attr")
