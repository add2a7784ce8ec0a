"""What the site needs beyond plugins of MkDocs: formulas as MathML, and no page that asks the network for anything."""

import html
import re
from typing import Any

from math_core import LatexError, LatexToMathML
from mkdocs.exceptions import PluginError
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

_FETCHED = "https://unpkg.com/iframe-worker/shim"

# What arithmatex makes of $...$ and of $$...$$.
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P<tag>\1)>', re.DOTALL)
_MATHML = LatexToMathML(fancy_error=False)


def on_page_content(content: str, *, page: Page, **_: Any) -> str:
    """Formulas in TeX become MathML, which browsers draw without a script; one that is not TeX fails the build."""
    try:
        return _FORMULA.sub(_in_mathml, content)
    except LatexError as fault:
        raise PluginError(f"{page.file.src_uri} holds a formula that is not TeX: {fault}") from fault


def _in_mathml(formula: re.Match[str]) -> str:
    block = formula["tag"] == "div"
    mathml = _MATHML.convert_with_local_state(html.unescape(formula["tex"]), displaystyle=block)
    return f'<div class="formula">{mathml}</div>' if block else mathml


def on_post_page(output: str, *, page: Page, **_: Any) -> str:
    """The script by which pages opened from disk can search: our own, where the theme would fetch one."""
    return output.replace(_FETCHED, get_relative_url("javascripts/worker.js", page.url))


def on_post_template(output_content: str, **_: Any) -> str:
    """Pages that are templates alone (404) do not search."""
    return output_content.replace(f'<script src="{_FETCHED}"></script>', "")
