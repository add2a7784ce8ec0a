"""A Griffe extension: the roles of docstrings (``:func:`~a.b``` and the like) as cross-references of the site."""

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:func|class|meth|mod|data|attr):`~?(?P<target>[\w.]+)`")
_HOME = "tl_neuron_attr"


class Roles(griffe.Extension):
    """Rewrites docstrings as the site is built; in the source they stay what editors and ``help`` understand."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one object's docstring."""
        if obj.docstring:
            obj.docstring.value = _ROLE.sub(lambda found: _link(obj, found["target"]), obj.docstring.value)


def _link(obj: griffe.Object, target: str) -> str:
    """A cross-reference where the target is documented by its full name, else its name as code."""
    name = target.removeprefix(f"{_HOME}.")
    return f"[`{name}`][{target}]" if target.startswith(_HOME) else f"`{name}`"
