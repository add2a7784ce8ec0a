"""The session that the documentation shows is what the commands print."""

import re
import shlex
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "command_line.md"
(SESSION,) = re.findall(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
STEPS = [step.split("\n", 1) for step in re.split(r"^\$ ", SESSION, flags=re.MULTILINE) if step]


def rounded(text):
    """Numbers to three decimals: the last digit may differ between processors."""
    return re.sub(r"-?\d+\.\d+(e-?\d+)?", lambda m: f"{float(m[0]):.3f}", text).strip()


@pytest.mark.parametrize("line, shown", STEPS, ids=[line for line, _ in STEPS])
def test_a_command_of_the_page_prints_what_the_page_shows(run, line, shown):
    _, out, err = run(*shlex.split(line)[1:])
    assert rounded(out + err) == rounded(shown)


def test_the_page_names_every_command():
    from tl_neuron_attr.cli.main import commands

    for name in commands().commands:
        assert f"`{name}`" in PAGE.read_text(encoding="utf-8")
