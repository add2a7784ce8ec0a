"""A Griffe extension: the roles of docstrings (``:func:`~a.b``` and the like) as cross-references of the site."""

import re
from pathlib import Path
from typing import Any

import griffe

_ROLE = re.compile(r":(?:func|class|meth|mod|data|attr):`~?(?P<target>[\w.]+)`")
_DIRECTIVE = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)
_REFERENCE = Path(__file__).parent / "reference"
_DOCUMENTED = frozenset(name for page in _REFERENCE.glob("*.md") for name in _DIRECTIVE.findall(page.read_text()))
_HOME = "tl_neuron_attr"


class Roles(griffe.Extension):
    """Rewrites docstrings as the site is built; in the source they stay what editors and ``help`` understand."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one object's docstring."""
        if obj.docstring:
            obj.docstring.value = _ROLE.sub(lambda found: _link(obj, found["target"]), obj.docstring.value)


def _link(obj: griffe.Object, target: str) -> str:
    """A cross-reference where the reference documents the target or what holds it, else its name as code."""
    name = target.removeprefix(f"{_HOME}.")
    holders = (target, target.rpartition(".")[0])
    public = target.startswith(_HOME) and (target.count(".") == 1 or _DOCUMENTED.intersection(holders))
    return f"[`{name}`][{target}]" if public else f"`{name}`"
