"""A finger on each numbered equation and table of the papers: searching for its number finds where it is computed.

Papers 1 and 4 are cited by equation: "paper 1, Eq. 13". The numbering of the equations of papers 2 and 3 is not known
here, so they are cited by table: "paper 3, Table 5". Their formulas stand in the glossary by symbol, beside the name
of what computes them.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tl_neuron_attr"

EQUATIONS = {1: {*range(1, 14)}, 4: {*range(1, 32)}}
"""All numbered equations of the papers whose numbering is known."""

TABLES = {2: {*range(3, 9)}, 3: {*range(1, 22)}}
"""The tables of the papers' experiments: of paper 2 those with known content, of paper 3 all but lists of prompts."""

GLOSSARY = PACKAGE.parent / "docs" / "glossary.md"

HOMES = {"numerics": 1, "model": 1, "knowledge": 1, "srnn": 4}
"""The paper that a room's bare "Eq. 7" is of; elsewhere the docstring names the paper first: "paper 1, Eq. 7"."""

NOT_YET: dict[int, set[int]] = {1: set(), 4: set()}
"""Equations still without a finger: may only shrink."""

NUMBERS = r"\s+((?:\d+(?:(?:\s*(?:,|-|–)|,?\s+(?:and|to))\s*(?=\d))?)+)"
EQUATION = re.compile(r"[Pp]aper (\d)|Eqs?\." + NUMBERS)
TABLE = re.compile(r"[Pp]aper (\d)|Tables?" + NUMBERS)


def cited(text: str, home: int | None = None, *, what: re.Pattern[str] = EQUATION) -> set[tuple[int | None, int]]:
    """Paper and number of each equation or table cited, ranges written out; the paper is the one named last."""
    found: set[tuple[int | None, int]] = set()
    paper = home
    for named, numbers in what.findall(text):
        paper = int(named) if named else paper
        for first, last in re.findall(r"(\d+)(?:(?:\s*[-–]|\s+to)\s*(\d+))?", numbers):
            found |= {(paper, number) for number in range(int(first), int(last or first) + 1)}
    return found


def docstrings(path: Path) -> Iterator[str]:
    """Every docstring of a file, attributes' and constants' included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield re.sub(r"\s+", " ", node.value.value)


def all_cited() -> dict[tuple[int | None, int], set[str]]:
    """The equations cited in the package, and by which files."""
    found: dict[tuple[int | None, int], set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        for text in docstrings(path):
            for equation in cited(text, HOMES.get(file.split("/")[0])):
                found.setdefault(equation, set()).add(file)
    return found


def missing() -> dict[int, set[int]]:
    found = all_cited()
    return {paper: {n for n in numbers if (paper, n) not in found} for paper, numbers in EQUATIONS.items()}


def test_every_numbered_equation_is_named_where_it_is_computed():
    assert {paper: sorted(numbers - NOT_YET[paper]) for paper, numbers in missing().items()} == {1: [], 4: []}


def test_what_is_still_without_a_finger_is_still_there():
    assert {paper: sorted(numbers - missing()[paper]) for paper, numbers in NOT_YET.items()} == {1: [], 4: []}


def test_no_docstring_names_an_equation_that_is_not_there():
    wrong = {
        equation: files for equation, files in all_cited().items() if equation[1] not in EQUATIONS.get(equation[0], ())
    }
    assert wrong == {}


def tables_of(*rooms: str) -> set[tuple[int | None, int]]:
    """The tables that docstrings of rooms cite, each with its paper's name in the same docstring."""
    texts = [text for room in rooms for path in sorted((PACKAGE / room).rglob("*.py")) for text in docstrings(path)]
    return set().union(*(cited(text, what=TABLE) for text in texts))


@pytest.mark.parametrize("paper, rooms", [(2, ("incontext",)), (3, ("cna",))])
def test_every_table_is_named_where_it_is_measured(paper, rooms):
    assert TABLES[paper] - {number for own, number in tables_of(*rooms) if own == paper} == set()


def symbols(paper: int) -> dict[str, list[str]]:
    """The glossary's symbols of a paper, and the names in the code beside them."""
    section = GLOSSARY.read_text(encoding="utf-8").split(f"## Paper {paper}:")[1].split("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]
    return {row[0]: re.findall(r"`([a-z_]+)(?:\([a-z_]*=[^`]*\))?`", row[1]) for row in rows}


FORMULAS = {
    ("incontext", 2): {"static_scores", "label_logit_difference", "two_towers", "majority_correction"},
    ("cna", 3): {"compare_neurons", "mask_keep_coef", "feature_transferring", "prediction_enhancing"},
}
"""Functions that compute a formula without a number."""


@pytest.mark.parametrize("room, paper", FORMULAS)
def test_every_function_beside_a_symbol_is_there_and_says_what_it_is_of(room, paper):
    """A formula without a number is found by its symbol: glossary, function, and there the paper's name."""
    names = {name for found in symbols(paper).values() for name in found}
    modules = [(path, ast.parse(path.read_text())) for path in sorted((PACKAGE / room).rglob("*.py"))]
    fingers = {
        node.name
        for path, tree in modules
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and any(f"aper {paper}" in text for text in docstrings(path))
    }
    assert FORMULAS[room, paper] <= names & fingers
    functions = {node.name for _, tree in modules for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert names & functions <= fingers


def test_a_citation_is_read_as_a_reader_would():
    assert cited("the increase (paper 1, Eq. 13), and paper 4, Eq. 9 to 11 and 14") == {
        (1, 13), (4, 9), (4, 10), (4, 11), (4, 14),
    }  # fmt: skip
    assert cited("Paper 1, section 3.2 and Eq. 2, 10 and 12; Eq. 7") == {(1, 2), (1, 10), (1, 12), (1, 7)}
    assert cited("Eq. 17 and section 4.2, Eq. 1 (3 of them)", home=4) == {(4, 17), (4, 1)}
    assert cited("Eq. 5") == {(None, 5)}
    assert cited("paper 3, Tables 5, 15 and 19; Eq. 2", what=TABLE) == {(3, 5), (3, 15), (3, 19)}
