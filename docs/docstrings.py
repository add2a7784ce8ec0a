"""A Griffe extension: docstrings' roles (``:func:`~a.b``` and the like) become cross-references, their formulas TeX."""

import re
from pathlib import Path
from typing import Any

import griffe

_ROLE = re.compile(r":(?:func|class|meth|mod|data|attr):`~?(?P<target>[\w.]+)`")
_DIRECTIVE = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)
_REFERENCE = Path(__file__).parent / "reference"
_DOCUMENTED = frozenset(name for page in _REFERENCE.glob("*.md") for name in _DIRECTIVE.findall(page.read_text()))
_HOME = "tl_neuron_attr"

# A formula takes a logarithm of p, raises to a power, or sets a symbol with an index equal to something. Brackets,
# quotes, and names of several letters after an underscore make it code.
_FORMULA = re.compile(
    r"``(?=[^`]*(?:log p\(|\^|\b[A-Za-z]_(?:\w\b|\()[^`]* = ))"
    r"(?![^`]*(?:[^\w\s()+\-*/=|,^`]|\*\*|_[A-Za-z]{2}))([^`]+)``"
)
_TEX = [
    (re.compile(r"([_^])\(([^()]*)\)"), r"\1{\2}"),
    (re.compile(r"\blog\b"), r"\\log"),
    (re.compile(r"(?<!\\)\b[A-Za-z]{2,}\b"), r"\\text{\g<0>}"),
    (re.compile(r" \| "), r" \\mid "),
    (re.compile(r" \* "), r" \\cdot "),
]


class Docstrings(griffe.Extension):
    """Rewrites docstrings as the site is built; in the source they stay what editors and ``help`` understand."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one object's docstring."""
        if obj.docstring:
            linked = _ROLE.sub(lambda found: _link(obj, found["target"]), obj.docstring.value)
            obj.docstring.value = _FORMULA.sub(lambda found: f"${_in_tex(found[1])}$", linked)


def _in_tex(formula: str) -> str:
    """Return TeX of a formula as docstrings write it: ``s_p = n^(k-p)``, ``log p(target) - log p(contrast)``."""
    for written, tex in _TEX:
        formula = written.sub(tex, formula)
    return " ".join(formula.split())


def _link(obj: griffe.Object, target: str) -> str:
    """A cross-reference where the reference documents the target or what holds it, else its name as code."""
    name = target.removeprefix(f"{_HOME}.")
    holders = (target, target.rpartition(".")[0])
    public = target.startswith(_HOME) and (target.count(".") == 1 or _DOCUMENTED.intersection(holders))
    return f"[`{name}`][{target}]" if public else f"`{name}`"
