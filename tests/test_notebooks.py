"""Every notebook runs offline, on the bundled model but for the first and the last, and stores what it shows."""

import os
import re
import socket
from pathlib import Path

import nbformat
import pytest

from scripts.run_notebooks import NOTEBOOKS, execute
from tl_neuron_attr.model.gguf_conversion import package_key
from tl_neuron_attr.model.model_cache import cached_folder
from tl_neuron_attr.model.packaged_models import PACKAGED_MODELS, is_installed

ALL = sorted(NOTEBOOKS.glob("*.ipynb"))
OFFLINE = """
import socket

def _refuse(*_):
    raise OSError("no network in notebooks")

socket.getaddrinfo = _refuse
"""
FETCHED = re.compile(r"""(?:src|href)=\\?["'](?:https?:)?//|import[^;\n]{0,80}from\s+\\?["']https?://""")


def test_there_are_seven_notebooks():
    assert [path.stem[:2] for path in ALL] == ["00", "01", "02", "03", "04", "05", "06"]


def missing(text: str) -> list[str]:
    """Return the packaged models that a notebook or page loads and this machine has not."""
    loaded = re.findall(r'tna\.load\(\\?"([^"\\]+)', text)
    return [
        name
        for name in loaded
        if name in PACKAGED_MODELS
        and not (cached_folder(package_key(name)).is_dir() or is_installed(PACKAGED_MODELS[name]))
    ]


def skip_without_its_models(text: str) -> None:
    """Skip the test where a page's models are not installed, unless CI requires them."""
    if missing(text) and "TNA_REQUIRE_REAL_MODELS" not in os.environ:
        pytest.skip(f"not installed: {missing(text)}")


@pytest.mark.slow
@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_it_runs_without_network(path: Path):
    skip_without_its_models(path.read_text(encoding="utf-8"))
    notebook = execute(path, before=OFFLINE)
    assert not [o for cell in notebook.cells for o in cell.get("outputs", []) if o.output_type == "error"]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_what_it_shows_is_stored_and_fetches_nothing(path: Path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs and not [output for output in outputs if output.output_type == "error"]
    shown = [str(output.get("data", {}).get("text/html", "")) for output in outputs]
    assert not [found.group() for html in shown for found in FETCHED.finditer(html)]


def test_the_network_guard_refuses():
    scope: dict = {}
    before = socket.getaddrinfo
    try:
        exec(OFFLINE, scope)
        with pytest.raises(OSError, match="no network"):
            socket.create_connection(("example.org", 80), timeout=1)
    finally:
        socket.getaddrinfo = before
