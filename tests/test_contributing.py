"""What the front door promises: targets and commits exist, versions and interpreters are said once and agree."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import tl_neuron_attr

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has none; these rules do not depend on the interpreter")

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
PAGES = ["CONTRIBUTING.md", "AGENTS.md", "llms.txt", ".github/pull_request_template.md"]


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_exists(page):
    text = (ROOT / page).read_text()
    targets = re.findall(r"`make ([\w-]+)`|^make ([\w-]+)", text, re.MULTILINE)
    assert {one or other for one, other in targets} <= {*re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE)}
    paths = {
        *re.findall(r"\]\(([\w./-]+)\)", text),
        *re.findall(r"`((?:docs|tests|scripts|tl_neuron_attr)/[\w./-]+)`", text),
    }
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_the_commits_walked_through_exist():
    commits = re.findall(r"git show ([0-9a-f]{7})", GUIDE)
    assert len(commits) == 3
    shallow = subprocess.run(["git", "rev-parse", "--is-shallow-repository"], cwd=ROOT, capture_output=True, text=True)
    if shallow.stdout.strip() != "false":
        pytest.skip("not a full clone")
    for commit in commits:
        subprocess.run(["git", "merge-base", "--is-ancestor", commit, "HEAD"], cwd=ROOT, check=True)


def test_the_version_is_said_once():
    assert "version" not in PROJECT["project"] and PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "tl_neuron_attr/__init__.py"
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == tl_neuron_attr.__version__


def test_everything_imported_is_declared():
    extras = PROJECT["project"]["optional-dependencies"]
    declared = [*PROJECT["project"]["dependencies"], *(line for lines in extras.values() for line in lines)]
    names = {Requirement(line).name.replace("-", "_").lower() for line in declared}
    imported: set[str] = set()
    for path in (ROOT / "tl_neuron_attr").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported |= {module.split(".")[0].lower() for module in modules}
    assert sorted(imported - names - {*sys.stdlib_module_names} - {"tl_neuron_attr"}) == []


def test_interpreters_agree():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    versions = workflow["jobs"]["run"]["strategy"]["matrix"]["python"]
    classifiers = [c.rpartition(" ")[2] for c in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert versions == classifiers
    assert PROJECT["project"]["requires-python"] == f">={versions[0]}"
    assert PROJECT["tool"]["pyright"]["pythonVersion"] == versions[0]


@pytest.mark.parametrize("path", sorted((ROOT / "tl_neuron_attr").rglob("*.py")), ids=lambda path: path.stem)
def test_every_file_parses_on_the_oldest_interpreter(path):
    ast.parse(path.read_text(), feature_version=(3, 10))


def test_ruff_has_one_version():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (rev,) = (repo["rev"] for repo in hooks if "ruff" in repo["repo"])
    (pinned,) = re.findall(r"^ruff==([\d.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert rev == f"v{pinned}"


def test_pytest_runs_in_one_process_unless_asked():
    assert "-n" not in PROJECT["tool"]["pytest"]["ini_options"]["addopts"].split()
    assert "-n $(WORKERS)" in MAKEFILE


def test_clean_removes_all_that_git_ignores():
    recipe = MAKEFILE.partition("\nclean:")[2].partition("\n\n")[0].replace("$(VENV)", ".venv")
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().split() if line != "*.log"]
    assert [name for name in ignored if name not in recipe] == []
