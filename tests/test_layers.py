"""The floors of the package (docs/design.md), read from the imports: each leans only on those before it."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tl_neuron_attr"
FLOORS = (
    ("_turns", "_type_messages", "_typechecked"),
    ("numerics", "srnn"),
    ("results",),
    ("model",),
    ("knowledge", "incontext", "cna"),
    ("demo", "evaluate", "sweep", "vis", "cli"),
)
"""The order of a floor's rooms is the order in which they may lean on each other: the later on the earlier."""

ROOMS = [room for floor in FLOORS for room in floor]
TENSORS_ONLY = ("numerics", "results", "srnn")
KNOW_WEIGHTS = ("model/", "cna/lora.py", "cna/pruning.py", "cna/checkpoints.py")
INSIDE = re.compile(r"^([\w.]*\.)?hook_\w*$|^blocks(\..*)?$|^original_component$|^W_(E|K|O|Q|U|V|in|out|gate|pos)$")
"""Hooks in full or in part, as they stand in a formatted string: ``blocks.``, ``.attn.hook_z``; weights."""


def files():
    return sorted(PACKAGE.rglob("*.py"))


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in files()}


def imports_of(path: Path) -> set[str]:
    """Modules a file imports, anywhere in it; a name of a package counts as its submodule where it is one."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            module = node.module or ""
            found |= {full if (full := f"{module}.{alias.name}") in MODULES else module for alias in node.names}
    return found


def inner_imports(path: Path) -> set[str]:
    return {name for name in imports_of(path) if name in MODULES and name != "tl_neuron_attr"}


@pytest.mark.parametrize("path", files(), ids=module_of)
def test_a_file_leans_only_on_rooms_before_its_own(path):
    own = room_of(module_of(path))
    if own not in ROOMS:
        assert path.parent == PACKAGE and path.name in ("__init__.py", "__main__.py")
        return
    up = [name for name in inner_imports(path) if ROOMS.index(room_of(name)) > ROOMS.index(own)]
    assert not up, f"{path} imports from a later room: {up}"


@pytest.mark.parametrize("path", [p for p in files() if room_of(module_of(p)) in ROOMS[:-1]], ids=module_of)
def test_only_the_command_goes_through_the_packages_face(path):
    """``__init__`` hands on names of every floor, so what it stands on cannot lean on it."""
    named = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {a.name for node in named if isinstance(node, ast.Import) for a in node.names}
    modules |= {node.module or "" for node in named if isinstance(node, ast.ImportFrom)}
    assert "tl_neuron_attr" not in modules


def test_no_file_imports_itself_by_way_of_others():
    graph = {module: inner_imports(path) for module, path in MODULES.items()}
    reached: dict[str, set[str]] = {}

    def below(module: str, above: tuple[str, ...] = ()) -> set[str]:
        assert module not in above, f"a circle of imports: {' -> '.join((*above[above.index(module) :], module))}"
        if module not in reached:
            reached[module] = set().union(*({n} | below(n, (*above, module)) for n in graph.get(module, ())))
        return reached[module]

    for module in graph:
        below(module)


@pytest.mark.parametrize("path", [p for p in files() if room_of(module_of(p)) in TENSORS_ONLY], ids=module_of)
def test_numerics_results_and_srnn_know_no_model(path):
    assert not [name for name in imports_of(path) if name.split(".")[0] in ("transformer_lens", "transformers")]


def insides(path: Path) -> list[str]:
    """Names in code, docstrings aside, that only ``model/`` may know: hooks, weights, what a bridge wraps."""
    tree = ast.parse(path.read_text())
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and INSIDE.match(node.attr):
            found.append(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            found += [word for word in re.split(r"[^\w.]+", node.value) if INSIDE.match(word)]
    return found


def test_names_are_seen_wherever_they_stand(tmp_path):
    written = {
        'stream.get(f"blocks.{layer}.attn.hook_z")': ["blocks.", ".attn.hook_z"],
        'cache["embed.hook_in"]': ["embed.hook_in"],
        'f"{at}.hook_{site}_out"': [".hook_"],
        "model.blocks[0].attn.W_O": ["W_O", "blocks"],
        '"""Read ``blocks.0.hook_resid_pre``."""': [],
        'model.run_with_hooks(fwd_hooks="hook")': [],
    }
    for code, found in written.items():
        (tmp_path / "code.py").write_text(code)
        assert sorted(insides(tmp_path / "code.py")) == sorted(found), code


@pytest.mark.parametrize("path", files(), ids=module_of)
def test_only_model_knows_hooks_and_weights(path):
    if str(path.relative_to(PACKAGE)).startswith((*KNOW_WEIGHTS, "numerics/", "srnn/")):
        return
    assert not insides(path), f"{path} names what only model/ knows"


def without_a_test_file() -> set[str]:
    """Modules that no file of the same path under ``tests/`` tests."""
    modules = {path.relative_to(PACKAGE) for path in files() if path.name not in ("__init__.py", "__main__.py")}
    tests = Path(__file__).parent
    return {
        str(path) for path in modules if not (tests / path.parent / f"test_{path.name.removeprefix('_')}").is_file()
    }


def test_every_module_has_its_test_file():
    assert without_a_test_file() == set()
