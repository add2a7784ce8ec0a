import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tl_neuron_attr.cli.main import main

torch.set_num_threads(1)
settings.register_profile("suite", deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("suite")

FAST = ("numerics", "results", "test_contributing.py", "test_equations.py", "test_init.py", "test_layers.py")
FAST += ("test_module_map.py", "test_names.py", "test_type_messages.py", "test_typechecked.py")
"""Folders and files of tests that ``make test-fast`` runs: the rules of the project, and what the numbers rest on."""


def pytest_collection_modifyitems(items):
    for item in items:
        top = (
            item.path.relative_to(Path(__file__).parent).parts[0] if Path(__file__).parent in item.path.parents else ""
        )
        if top in FAST and item.get_closest_marker("slow") is None:
            item.add_marker("fast")


@pytest.fixture
def run(capsys):
    """The command line as a user meets it: arguments to exit code, output and errors."""

    def command(*args):
        code = main(args)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture
def script(monkeypatch):
    """Import a script of ``scripts/`` by its name; it and those it imports are forgotten after the test."""
    folder = Path(__file__).parents[1] / "scripts"
    monkeypatch.syspath_prepend(str(folder))
    yield __import__
    for path in folder.glob("*.py"):
        sys.modules.pop(path.stem, None)
