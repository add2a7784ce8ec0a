"""Mutation testing: change one operator, constant, condition or call at a time, and see whether a test notices.

A module's mutants are tried on the test file that mirrors it, or on those that :data:`ALSO` names. All of it happens
in a copy of the project, in processes forked from one that has imported torch and TransformerLens.

    python scripts/mutants.py --sample 60 --seed 1              # a sample of all rooms
    python scripts/mutants.py numerics model/stream.py          # every mutant of a room and of a file
    python scripts/mutants.py --sample 90 --seed 3 --workers 14 # fourteen at once, each in a copy of its own

The survivors are printed and written to a file: for each its place, the code before and after.
"""

import argparse
import ast
import copy
import itertools
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "tl_neuron_attr"
ROOMS = ("numerics", "model", "knowledge", "srnn")

ALSO = {
    "knowledge/flow_edges.py": ("knowledge/test_flow_edges.py", "knowledge/test_flow.py"),
    "srnn/equations.py": ("srnn/test_equations.py", "srnn/test_linear.py"),
    "srnn/module.py": ("srnn/test_module.py", "srnn/test_lengths.py", "srnn/test_errors.py"),
}
"""Test files of modules that have more than their mirror."""

COMPARISONS = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_PAIRS = ("min max", "minimum maximum", "amin amax", "argmin argmax", "any all", "sum mean", "clamp_min clamp_max")
SWAPS = {one: other for pair in _PAIRS for one, other in itertools.permutations(pair.split())}
DROPPED = {"abs", "neg", "double", "float", "clamp", "clamp_min", "clamp_", "clamp_min_", "square", "sqrt", "flip"}
"""Methods whose call is left out: ``x.abs()`` becomes ``x``."""

TOGETHER = 3
"""Mutants of one file that one worker tries in turn, after one run of the unchanged tests."""

SECONDS = 60
"""Processor time allowed beyond three times what the unchanged tests took: an endless loop is noticed."""


class Mutant(NamedTuple):
    """One change: the bytes from ``start`` to ``end`` of ``path`` become ``code``."""

    path: str
    line: int
    start: int
    end: int
    before: str
    code: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.before}  ->  {self.code}"


def mutants_of(source: str, path: str = "") -> list[Mutant]:
    """Return every mutant of a module, in the order of its lines."""
    starts = [0, *itertools.accumulate(len(line.encode()) for line in source.splitlines(keepends=True))]
    found = []
    nodes = list(_code(ast.parse(source)))
    conditions = {node.test for node in nodes if isinstance(node, ast.If | ast.While | ast.IfExp)}
    for node in nodes:
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[cast(int, node.end_lineno) - 1] + cast(int, node.end_col_offset)
        found += [Mutant(path, node.lineno, start, end, ast.unparse(node), code) for code in _changes(node)]
        if node in conditions and not isinstance(node, ast.Compare | ast.UnaryOp):
            found.append(Mutant(path, node.lineno, start, end, ast.unparse(node), f"(not ({ast.unparse(node)}))"))
    return sorted(found, key=lambda mutant: (mutant.start, mutant.end))


def _code(node: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """Find what can be changed: no annotation, decorator, text or error message."""
    if isinstance(node, ast.JoinedStr):
        return
    if isinstance(node, ast.expr | ast.stmt):
        yield node
    if isinstance(node, ast.Raise):
        return
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns", "decorator_list", "msg"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _code(child)


def _changes(node: ast.expr | ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.Raise):
        yield "pass"
    elif isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            for other in COMPARISONS[type(op)]:
                yield _with(node, ops=[*node.ops[:i], other(), *node.ops[i + 1 :]])
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in ARITHMETIC:
        yield _with(node, op=ARITHMETIC[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        yield _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        yield f"({ast.unparse(node.operand)})"
    elif isinstance(node, ast.Constant):
        yield from _other_constant(node.value)
    elif isinstance(node, ast.Call):
        yield from _other_call(node)


def _other_constant(value: object) -> Iterator[str]:
    if isinstance(value, bool):
        yield str(not value)
    elif isinstance(value, int | float):
        yield f"({value + 1})"


def _other_call(node: ast.Call) -> Iterator[str]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in SWAPS:
        func = copy.deepcopy(node.func)
        setattr(func, "attr" if isinstance(func, ast.Attribute) else "id", SWAPS[name])
        yield _with(node, func=func)
    elif name in DROPPED and isinstance(node.func, ast.Attribute):
        yield f"({ast.unparse(node.func.value)})"


def _with(node: ast.expr | ast.stmt, **fields: object) -> str:
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    text = ast.unparse(ast.fix_missing_locations(other))
    return text if isinstance(node, ast.stmt) else f"({text})"


def tests_of(path: str) -> list[str]:
    """Return the test files of a module, whose path counts from the package's folder."""
    room, name = path.split("/")
    return [f"tests/{test}" for test in ALSO.get(path, (f"{room}/test_{name}",))]


@dataclass(frozen=True)
class Outcome:
    """How a run of tests ended, and the processor time it took."""

    status: str  # "passed", "failed" or "timed out"
    seconds: float


class Copy:
    """A copy of the project, in which one file at a time is changed."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        unwanted = shutil.ignore_patterns(".*", "__pycache__", "site", "dist", "notebooks")
        shutil.copytree(ROOT, self.root, ignore=unwanted)
        self._times = itertools.count(1_000_000_000)

    def write(self, path: str, source: bytes) -> None:
        """Change a file; each version gets its own time, so that no compiled file of another version is used."""
        file = self.root / PACKAGE / path
        file.write_bytes(source)
        moment = next(self._times)
        os.utime(file, (moment, moment))

    def run(self, tests: list[str], *, limit: float) -> Outcome:
        """Run test files in a forked process until the first failure."""
        pid = os.fork()
        if pid == 0:
            self._test(tests, int(limit))
        deadline = time.monotonic() + 20 * limit  # of waiting: what sleeps or is starved uses no processor time
        while not (ended := os.wait4(pid, os.WNOHANG))[0]:
            time.sleep(0.1)
            if time.monotonic() > deadline:
                os.killpg(pid, signal.SIGKILL)
                deadline = float("inf")
        code, usage = os.waitstatus_to_exitcode(ended[1]), ended[2]
        if code in (4, 5):  # pytest's codes of wrong usage, and of no test found
            raise RuntimeError(f"pytest finds no test in {tests}: see {self.root.parent / 'output.txt'}")
        status = "timed out" if code < 0 else "failed" if code else "passed"
        return Outcome(status, usage.ru_utime + usage.ru_stime)

    def _test(self, tests: list[str], limit: int) -> None:
        import pytest
        import torch
        from hypothesis import Phase, settings

        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            output = os.open(self.root.parent / "output.txt", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.chdir(self.root)
            os.environ["PYTHONPATH"] = str(self.root)
            sys.path.insert(0, str(self.root))
            torch.set_num_threads(1)
            # The tests' own profile inherits from this one: the same examples every time, none made smaller
            settings.register_profile("mutants", phases=[Phase.explicit, Phase.generate], derandomize=True)
            settings.load_profile("mutants")
            code = pytest.main(["-x", "-n0", "-p", "no:cacheprovider", "-m", "not slow", *tests])
        except BaseException:
            code = 4
        os._exit(int(code))


def chosen(targets: list[str], sample: int | None, seed: int) -> list[Mutant]:
    """Return the mutants of rooms or files, or a sample of them."""
    folder = ROOT / PACKAGE
    files = [f for t in targets for f in (sorted((folder / t).glob("*.py")) if (folder / t).is_dir() else [folder / t])]
    paths = [str(f.relative_to(folder)) for f in files if f.name != "__init__.py"]
    found = [m for path in paths for m in mutants_of((folder / path).read_text(encoding="utf-8"), path)]
    if sample is not None and sample < len(found):
        found = sorted(random.Random(seed).sample(found, sample))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Try changes of the code on its tests, and list those not noticed.")
    parser.add_argument("targets", nargs="*", default=list(ROOMS), help="rooms, or files such as model/stream.py")
    parser.add_argument("--sample", type=int, help="how many mutants, drawn at random (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default 0)")
    parser.add_argument("--workers", type=int, default=1, help="how many mutants are tried at once (default 1)")
    parser.add_argument("--out", type=Path, default=ROOT / ".cache/mutants.json", help="where the outcomes go")
    args = parser.parse_args()
    mutants = chosen(args.targets, args.sample, args.seed)
    print(f"{len(mutants)} mutants", flush=True)

    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        _import_all_but_the_package(Path(folder) / "compiled")
        outcomes = _try(mutants, Path(folder), args.workers, args.out)
    print(", ".join(f"{count} {status}" for status, count in Counter(outcomes.values()).items()))
    print(f"survivors, of {args.out}:")
    print("\n".join(str(mutant) for mutant, status in outcomes.items() if status == "survived"))


def _import_all_but_the_package(compiled: Path) -> None:
    """Import what the package and its tests need, so that forked processes have it: it takes most of a run's time.

    Args:
        compiled: Where compiled files go, whatever the environment says about writing them.
    """
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(compiled)
    sys.path.insert(0, str(ROOT))
    import hypothesis  # noqa: F401
    import pytest  # noqa: F401

    import tl_neuron_attr.cli.main  # noqa: F401

    sys.path.remove(str(ROOT))
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]


def _try(mutants: list[Mutant], folder: Path, workers: int, out: Path) -> dict[Mutant, str]:
    """Try mutants, several at once, and write the outcomes as they come, so that a stopped run loses little."""
    outcomes: dict[Mutant, str] = {}
    of_files = [list(own) for _, own in itertools.groupby(mutants, key=lambda mutant: mutant.path)]
    jobs = [list(some) for own in of_files for some in _batched(own, TOGETHER)]
    with multiprocessing.get_context("fork").Pool(workers, _start, (folder,)) as pool:
        for found in pool.imap_unordered(_try_some, jobs):
            outcomes |= found
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps([{**m._asdict(), "outcome": o} for m, o in outcomes.items()], indent=1))
    return dict(sorted(outcomes.items()))


def _batched(mutants: list[Mutant], size: int) -> Iterator[list[Mutant]]:
    for start in range(0, len(mutants), size):
        yield mutants[start : start + size]


def _start(folder: Path) -> None:
    global _project
    _project = Copy(folder / str(os.getpid()))


def _try_some(mutants: list[Mutant]) -> dict[Mutant, str]:
    """Try mutants of one file in this process's copy; none where the unchanged tests fail already."""
    path = mutants[0].path
    source, tests = (_project.root / PACKAGE / path).read_bytes(), tests_of(path)
    unchanged = _project.run(tests, limit=600)
    if unchanged.status != "passed":
        print(f"not tried: {tests} {unchanged.status} without any change", flush=True)
        return dict.fromkeys(mutants, "not tried")
    outcomes = {}
    for mutant in mutants:
        _project.write(path, source[: mutant.start] + mutant.code.encode() + source[mutant.end :])
        outcome = _project.run(tests, limit=3 * unchanged.seconds + SECONDS)
        outcomes[mutant] = {"passed": "survived", "failed": "killed"}.get(outcome.status, outcome.status)
        print(f"{outcomes[mutant]:9} {outcome.seconds:4.0f} s  {mutant}", flush=True)
    _project.write(path, source)
    return outcomes


_project: Copy
"""The copy of the process at hand, which its start makes."""


if __name__ == "__main__":
    main()
