"""One word, one meaning: no name twice, every axis in the glossary, verbs first, no word that the design replaces."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tl_neuron_attr"
GLOSSARY = ROOT / "docs" / "glossary.md"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in FILES}
TENSORS = {"Bool", "Complex", "Float", "Int", "Int32", "Int64", "Num", "Shaped", "UInt8"}

BANNED = set(
    "ask beyond held leaning leanings parts picking question reach reader readers reading said shaped shut spread tile "
    "tiles turned watch".split()
)
"""Words that docs/design.md replaces, as a part of any name that a file binds."""

OF_FILES = ("model/gguf", "model/loading", "model/packaged", "results/rows")
"""What reads files may have parts and readers: there these words mean nothing else."""

BANNED_MODULES = {"cases", "changes", "checked", "effects", "guard", "naming", "places", "runs", "tracing", "words"}

VERBS = set(
    "Adapt Add Apply Build Check Choose Close Collect Colour Compare Compute Convert Copy Count Create Draw Drop "
    "Enforce Estimate Fill Find Fit Follow Freeze Give Group Hide Hold Join Keep Leave Let List Load Make Mark "
    "Measure Merge Move Multiply Name Narrow Open Order Pad Parse Pass Plan Print Prune Put Raise Rank Read "
    "Record Reduce Refuse Remove Render Replace Restore Return Run Save Say Score Search Select Send Set Show "
    "Sort Split Start Stop Store Sum Take Test Train Turn Unembed Update Use Verify Wait Warn Write Yield Zero".split()
)
"""What a function's docstring may open with: verbs. A new verb is added here, a noun or a question is not."""

TWICE_NOT_YET: set[str] = set()
AXES_NOT_YET: set[str] = set()
BANNED_NOT_YET: set[str] = set()
"""What is still to be mended. These may only shrink: a test fails where an entry is no offender any more."""


def bound_at_top(node: ast.AST) -> Iterator[str]:
    """Names that a file defines, not those it imports; in its conditions and ``try`` too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If | ast.Try | ast.ExceptHandler):
            yield from bound_at_top(child)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield child.name
        elif isinstance(child, ast.Assign | ast.AnnAssign):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            yield from (t.id for target in targets for t in ast.walk(target) if isinstance(t, ast.Name))


def homes(*, in_vis: bool) -> dict[str, set[str]]:
    """Public names and file names, and the files that define them."""
    found: dict[str, set[str]] = defaultdict(set)
    for file, tree in TREES.items():
        if file.startswith("vis/") != in_vis:
            continue
        if not file.endswith("__init__.py"):
            found[Path(file).name].add(file)
        for name in bound_at_top(tree):
            if not name.startswith("_"):
                found[name].add(file)
    return found


def twice() -> set[str]:
    return {name for in_vis in (False, True) for name, files in homes(in_vis=in_vis).items() if len(files) > 1}


def axes_in_shapes() -> dict[str, set[str]]:
    """Names of axes in the package's shapes, and the files that use them."""
    found: dict[str, set[str]] = defaultdict(set)
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Subscript) or getattr(node.value, "id", "") not in TENSORS:
                continue
            assert isinstance(node.slice, ast.Tuple), f"{file}:{node.lineno} has a shape without a dtype or axes"
            shape = node.slice.elts[1]
            assert isinstance(shape, ast.Constant) and isinstance(shape.value, str), f"{file}:{node.lineno}"
            for axis in shape.value.split():
                name = axis.lstrip("*#?")
                if name not in ("", "_", "...") and not name.isdecimal():
                    found[name].add(file)
    return found


def axes_of_glossary() -> set[str]:
    table = GLOSSARY.read_text().partition("## Axes")[2]
    cells = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def words_of(name: str) -> list[str]:
    """The words of a name; "held out" is a term of the field."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().replace("held_out", "heldout").split("_")


def names_bound(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def banned() -> set[str]:
    """``file: name`` of every name with a banned word, and files named so."""
    names = {
        f"{file}: {name}"
        for file, tree in TREES.items()
        if not file.startswith(OF_FILES)
        for name in names_bound(tree)
        if BANNED & {*words_of(name)}
    }
    stems = {file for file in TREES if Path(file).stem in BANNED_MODULES or BANNED & {*words_of(Path(file).stem)}}
    return names | stems


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions and methods, but for properties, which are named like attributes, and Python's own methods."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("__"):
            decorators = [ast.unparse(each) for each in node.decorator_list]
            if not any(each.endswith(("property", ".setter")) for each in decorators):
                yield node


def opening(docstring: str) -> str:
    return docstring.split()[0].rstrip(",")


def test_a_function_s_docstring_opens_with_a_verb():
    found = [
        f"{file}:{function.lineno} {function.name}: {docstring.splitlines()[0]}"
        for file, tree in TREES.items()
        for function in functions(tree)
        if (docstring := ast.get_docstring(function)) and opening(docstring) not in VERBS
    ]
    assert found == []


def test_no_public_name_or_file_name_is_defined_twice():
    found = {name: sorted(files) for v in (False, True) for name, files in homes(in_vis=v).items() if len(files) > 1}
    assert {name: files for name, files in found.items() if name not in TWICE_NOT_YET} == {}


def test_every_axis_stands_in_the_glossary():
    known = axes_of_glossary() | AXES_NOT_YET
    assert {"batch", "layer", "d_model"} <= known
    assert {axis: sorted(files) for axis, files in axes_in_shapes().items() if axis not in known} == {}


def test_no_name_has_a_word_that_the_design_replaces():
    assert sorted(banned() - BANNED_NOT_YET) == []


@pytest.mark.parametrize(
    ("left", "offenders"),
    [
        (TWICE_NOT_YET, twice),
        (AXES_NOT_YET, lambda: {*axes_in_shapes()} - axes_of_glossary()),
        (BANNED_NOT_YET, banned),
    ],
    ids=["twice", "axes", "words"],
)
def test_what_is_still_to_be_mended_is_still_there(left, offenders):
    assert sorted(left - offenders()) == []


def test_the_checks_see_what_they_are_for():
    tree = ast.parse("if x:\n    Tile = 1\ndef part_of(spread): ...\nfrom a import b\n_c, D = 1, 2")
    assert [*bound_at_top(tree)] == ["Tile", "part_of", "_c", "D"]
    assert names_bound(tree) >= {"Tile", "part_of", "spread", "D"} and "b" not in names_bound(tree)
    assert [each.name for each in functions(ast.parse("@property\ndef a(self): ...\ndef b(): ..."))] == ["b"]
    assert opening("The scores.") not in VERBS and opening("Return, once, the scores.") in VERBS
    assert words_of("maxTiles_seen") == ["max", "tiles", "seen"]
