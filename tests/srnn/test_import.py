"""The sub-package stands alone, names every equation of its paper, and its page's code runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "srnn.md"
SOURCE = Path(__file__).parents[2] / "tl_neuron_attr" / "srnn"


def loaded_after(statement):
    """The modules of a fresh interpreter after ``statement``."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import tl_neuron_attr.srnn", "import tl_neuron_attr as tna; tna.srnn.SRNN"])
def test_it_loads_neither_transformers_nor_the_rest_of_the_package(statement):
    loaded = loaded_after(statement)
    assert "torch" in loaded
    assert not loaded & {"transformer_lens", "transformers", "pandas"}
    rest = {m for m in loaded if m.startswith("tl_neuron_attr") and not m.startswith("tl_neuron_attr.srnn")}
    assert rest == {"tl_neuron_attr", *(f"tl_neuron_attr.{m}" for m in ("_typechecked", "_type_messages", "_turns"))}


def test_a_search_finds_every_numbered_equation_of_the_paper():
    text = "\n".join(path.read_text() for path in SOURCE.glob("*.py"))
    assert [number for number in range(1, 32) if not re.search(rf"Eq\. {number}\b", text)] == []


def test_the_page_s_code_runs():
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 2
    assert (names["srnn"](names["x"])[0] - names["rnn"](names["x"])[1][0]).abs().max() < 1e-13
