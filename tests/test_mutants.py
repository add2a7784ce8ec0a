"""What the mutation tool changes, and that every file it mutates has tests to try its mutants on."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "mutants.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("mutants", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutants"] = module  # where dataclasses look up their annotations
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("a < b", {"(a <= b)", "(a >= b)"}),
        ("a == b", {"(a != b)"}),
        ("a - b", {"(a + b)"}),
        ("x += y", {"x -= y"}),
        ("f(2)", {"f((3))"}),
        ("-x", {"(x)"}),
        ("x.abs()", {"(x)"}),
        ("x.amin(y)", {"(x.amax(y))"}),
        ("min(x, y)", {"(max(x, y))"}),
        ("a and b", {"(a or b)"}),
        ("f(k=True)", {"f(k=False)"}),
        ("x if ready else y", {"x if (not (ready)) else y"}),
        ("if ready:\n    go()", {"if (not (ready)):\n    go()"}),
        ("raise ValueError(f'{n + 1} rows')", {"pass"}),
        ("def f(x: Literal[1]) -> 'a':\n    'Return 1 < 2.'", set()),
        ("'é' ; a * b", {"'é' ; (a / b)"}),  # columns are counted in bytes
    ],
)
def test_what_code_becomes(tool, code, expected):
    source = code.encode()
    found = [source[: m.start] + m.code.encode() + source[m.end :] for m in tool.mutants_of(code)]
    assert {text.decode() for text in found} == expected
    assert len(found) == len(expected)


def test_every_mutant_of_the_package_can_be_compiled(tool):
    for mutant in tool.chosen([*tool.ROOMS], 200, 0):
        source = (ROOT / tool.PACKAGE / mutant.path).read_bytes()
        changed = source[: mutant.start] + mutant.code.encode() + source[mutant.end :]
        compile(changed, mutant.path, "exec")
        assert changed != source


def test_every_file_has_tests(tool):
    paths = {mutant.path for mutant in tool.chosen([*tool.ROOMS], None, 0)}
    assert {path.split("/")[0] for path in paths} == {*tool.ROOMS}
    assert [test for path in [*paths, *tool.ALSO] for test in tool.tests_of(path) if not (ROOT / test).exists()] == []


def test_a_sample_is_the_same_for_the_same_seed(tool):
    first, again, other = (tool.chosen(["numerics"], 20, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 20
