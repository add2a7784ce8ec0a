"""The sub-package stands alone, and the package's names are there without being imported."""

import subprocess
import sys

import pytest

import tl_neuron_attr


def loaded_after(statement):
    """The modules of a fresh interpreter after ``statement``."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_srnn_loads_neither_transformers_nor_the_rest_of_the_package():
    loaded = loaded_after("import tl_neuron_attr.srnn")
    assert "torch" in loaded
    assert not loaded & {"transformer_lens", "transformers", "pandas"}
    rest = {m for m in loaded if m.startswith("tl_neuron_attr") and not m.startswith("tl_neuron_attr.srnn")}
    assert rest == {"tl_neuron_attr"}


def test_the_package_s_names_are_imported_on_first_use():
    assert not loaded_after("import tl_neuron_attr as tna; tna.srnn.SRNN") & {"transformer_lens", "transformers"}
    assert "transformer_lens" in loaded_after("import tl_neuron_attr as tna; tna.value_neurons")


@pytest.mark.parametrize("name", tl_neuron_attr.__all__)
def test_every_public_name_is_there(name):
    assert name in dir(tl_neuron_attr)
    assert getattr(tl_neuron_attr, name).__name__.endswith(name)


def test_another_name_is_not():
    with pytest.raises(AttributeError, match="module 'tl_neuron_attr' has no attribute 'nonsense'"):
        tl_neuron_attr.nonsense  # noqa: B018
