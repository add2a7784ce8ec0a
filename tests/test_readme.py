"""What the README and the documentation say can be run."""

import re
import shlex
from pathlib import Path

import pytest

from tests.test_notebooks import skip_without_its_models
from tl_neuron_attr.cli.main import commands

ROOT = Path(__file__).parent.parent
REAL = 'tna.load("gemma3-270m")'


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def test_the_six_lines_run_on_the_bundled_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("README.md", "python")
    assert REAL in code
    scope: dict = {}
    exec(code.replace(REAL, "tna.demo.load()"), scope)
    assert len(scope["value"]) == len(scope["query"]) == 30
    assert "basketball" in (tmp_path / "duncan.html").read_text(encoding="utf-8")


STAND_INS = {"answers.md": 'tna.load("smollm2-135m")'}
"""What a page is run on instead of Gemma, if not on the bundled model: answers of several tokens need a real
vocabulary, and one of a fifth of Gemma's tokens takes a fifth of the time."""
PAGES = [path.name for path in sorted((ROOT / "docs").glob("*.md")) if blocks(f"docs/{path.name}", "python")]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = STAND_INS.get(page, "tna.demo.load()")
    skip_without_its_models(model)
    scope: dict = {}
    for code in blocks(f"docs/{page}", "python"):
        exec(code.replace(REAL, model), scope)
    saved = re.findall(r"\.save\(\"([\w.]+)\"\)", (ROOT / "docs" / page).read_text())
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".jsonl") == sorted(set(saved))


def test_there_is_code_on_every_method_page():
    assert {"quickstart.md", "knowledge.md", "incontext.md", "cna.md", "editing.md", "srnn.md"} <= set(PAGES)


COMMANDS = [
    line for block in blocks("README.md", "bash") for line in block.splitlines() if line.startswith("tl-neuron")
]


READERS_OWN = ("corpus.txt", "facts.jsonl", "reviews.csv")
"""Files that a reader brings: a command is refused before its work where they are missing."""


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_one(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in READERS_OWN:
        (tmp_path / file).touch()
    name, *args = shlex.split(line, comments=True)[1:]
    commands().commands[name].make_context(name, args)


def test_every_subcommand_is_shown():
    shown = {line.split()[1] for line in COMMANDS}
    assert shown == {*commands().commands} - {"completion"}


def test_every_name_of_the_tables_exists():
    import tl_neuron_attr as tna

    table = (ROOT / "README.md").read_text().split("| question | call |")[1].split("\n\n")[0]
    homes = (tna, tna.cna, tna.evaluate, tna.incontext, tna.sweep)
    names = re.findall(r"`([a-z_.]+)`", table)
    assert len(names) > 20
    assert not [n for n in names if not any(hasattr(home, n.split(".")[-1]) for home in homes)]
