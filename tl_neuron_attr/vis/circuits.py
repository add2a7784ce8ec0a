"""circuitsvis elements drawn from the bundle inside its package: no network, the bundle inlined once."""

import re
from functools import cache
from hashlib import sha256
from importlib.metadata import distribution
from importlib.resources import files

from circuitsvis import __version__ as CIRCUITSVIS
from circuitsvis.utils.render import RenderedHTML
from markupsafe import Markup

_FROM_CDN = re.compile(
    r'<div id="(?P<id>[\w-]+)"[^>]*/>\s*<script crossorigin type="module">\s*'
    r'import \{ render, (?P<element>\w+) \} from "https://[^"]+";(?P<call>.*)</script>',
    re.DOTALL,
)

_DIGITS = 16
"""Hexadecimal digits of a hash that make an id: two elements of one page practically never share 64 bits."""


@cache
def bundle() -> Markup:
    """Return the script that defines ``CircuitsVis``, under its licence, fit to stand inside a ``<script>`` element."""
    script = files("circuitsvis").joinpath("dist/cdn/iife.js").read_text(encoding="utf-8")
    return Markup(f"{_unclosed(_notice())}\n{_unclosed(script)}\nwindow.CircuitsVis = CircuitsVis;")


def element(rendered: RenderedHTML) -> Markup:
    """Return a circuitsvis element as markup that takes ``CircuitsVis`` from :func:`bundle` instead of a CDN.

    The same element is the same markup: the random id that circuitsvis gives it is replaced by one that follows from
    what it draws. An element that stands in a page twice gets a second id when the page is opened.

    Raises:
        RuntimeError: If this version of circuitsvis renders in a way that is not known.
    """
    found = _FROM_CDN.fullmatch(rendered.cdn_src.strip())
    random_id = f'"{found["id"]}"' if found else ""
    if found is None or found["call"].count(random_id) != 1:
        raise RuntimeError(
            f"circuitsvis {CIRCUITSVIS} renders its elements in an unknown way; install a version of constraints.txt"
        )
    name, call = found["element"], _unclosed(found["call"].strip())
    drawn = sha256(f"{name} {call.replace(random_id, '')}".encode()).hexdigest()[:_DIGITS]
    return Markup(
        f'<div data-circuitsvis="{drawn}"></div>\n<script>(() => {{ const {{ render, {name} }} = window.CircuitsVis;\n'
        f"const drawn = document.querySelectorAll('[data-circuitsvis=\"{drawn}\"][id]').length;\n"
        f"const here = document.querySelector('[data-circuitsvis=\"{drawn}\"]:not([id])');\n"
        f"here.id = 'circuitsvis-{drawn}-' + drawn;\n"
        f"{call.replace(random_id, 'here.id')} }})();</script>"
    )


def _notice() -> str:
    """Return circuitsvis' licence as a comment that minifiers keep."""
    licences = [file for file in distribution("circuitsvis").files or () if file.stem.upper() in ("LICENSE", "LICENCE")]
    text = licences[0].read_text() if licences else "MIT License. Copyright (c) Alan Cooney"
    return f"/*! circuitsvis {CIRCUITSVIS}\n\n{text.strip().replace('*/', '* /')}\n*/"


def _unclosed(script: str) -> str:
    """Return a script without anything that ends or hides the element it stands in; the same strings at run time."""
    return script.replace("</script", r"<\/script").replace("<!--", r"<\!--")
