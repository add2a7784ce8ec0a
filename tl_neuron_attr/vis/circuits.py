"""circuitsvis elements drawn from the bundle inside its package: no network, the bundle inlined once."""

import re
from functools import cache
from importlib.resources import files

from circuitsvis import __version__ as CIRCUITSVIS
from circuitsvis.utils.render import RenderedHTML
from markupsafe import Markup

_FROM_CDN = re.compile(
    r'<div id="(?P<id>[\w-]+)"[^>]*/>\s*<script crossorigin type="module">\s*'
    r'import \{ render, (?P<element>\w+) \} from "https://[^"]+";(?P<call>.*)</script>',
    re.DOTALL,
)


@cache
def bundle() -> Markup:
    """The script that defines ``CircuitsVis``, fit to stand inside a ``<script>`` element."""
    script = files("circuitsvis").joinpath("dist/cdn/iife.js").read_text(encoding="utf-8")
    return Markup(f"{_unclosed(script)}\nwindow.CircuitsVis = CircuitsVis;")


def element(rendered: RenderedHTML) -> Markup:
    """A circuitsvis element as markup that takes ``CircuitsVis`` from :func:`bundle` instead of a CDN.

    Raises:
        RuntimeError: If this version of circuitsvis renders in a way that is not known.
    """
    found = _FROM_CDN.fullmatch(rendered.cdn_src.strip())
    if found is None:
        raise RuntimeError(
            f"circuitsvis {CIRCUITSVIS} renders its elements in an unknown way; install a version of constraints.txt"
        )
    name, call = found["element"], _unclosed(found["call"].strip())
    return Markup(
        f'<div id="{found["id"]}"></div>\n<script>(() => {{ const {{ render, {name} }} = window.CircuitsVis;\n'
        f"{call} }})();</script>"
    )


def _unclosed(script: str) -> str:
    """A script without anything that ends or hides the element it stands in; the same strings at run time."""
    return script.replace("</script", r"<\/script").replace("<!--", r"<\!--")
