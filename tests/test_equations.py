"""A finger on each numbered equation of the papers: searching the package for "Eq. 13" finds where it is computed."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "tl_neuron_attr"

EQUATIONS = {1: {*range(1, 14)}, 4: {*range(1, 32)}}
"""All numbered equations. Papers 2 and 3 are cited by section and table."""

HOMES = {"numerics": 1, "model": 1, "knowledge": 1, "srnn": 4}
"""The paper that a room's bare "Eq. 7" is of; elsewhere the docstring names the paper first: "paper 1, Eq. 7"."""

NOT_YET: dict[int, set[int]] = {1: set(), 4: set()}
"""Equations still without a finger: may only shrink."""

CITED = re.compile(r"[Pp]aper (\d)|Eqs?\.\s+((?:\d+(?:(?:\s*(?:,|-|–)|,?\s+(?:and|to))\s*(?=\d))?)+)")


def cited(text: str, home: int | None = None) -> set[tuple[int | None, int]]:
    """Paper and number of each equation cited, ranges written out; the paper is the one named last."""
    found: set[tuple[int | None, int]] = set()
    paper = home
    for named, numbers in CITED.findall(text):
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


def test_a_citation_is_read_as_a_reader_would():
    assert cited("the increase (paper 1, Eq. 13), and paper 4, Eq. 9 to 11 and 14") == {
        (1, 13), (4, 9), (4, 10), (4, 11), (4, 14),
    }  # fmt: skip
    assert cited("Paper 1, section 3.2 and Eq. 2, 10 and 12; Eq. 7") == {(1, 2), (1, 10), (1, 12), (1, 7)}
    assert cited("Eq. 17 and section 4.2, Eq. 1 (3 of them)", home=4) == {(4, 17), (4, 1)}
    assert cited("Eq. 5") == {(None, 5)}
