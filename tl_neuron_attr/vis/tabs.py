"""A page of several parts: the text as buttons, a token or an answer each, and the part of the one that is chosen.

The first part stands in the page as it is; the others are packed, or a page of an answer would grow by a whole page for
each of its tokens. Which part is shown stands in the page's address.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tl_neuron_attr.vis.packed import packed
from tl_neuron_attr.vis.page_data import page_data
from tl_neuron_attr.vis.templates import asset, render
from tl_neuron_attr.vis.view import View

_ATTENTION = "attention.js"
_SCRIPTS = ("page.js", "flow.js", "layered.js", _ATTENTION)
"""What draws parts: once in the page where any part has it, not once in each; the tabs themselves need the first."""

_LONGEST = 24
"""Tokens of a prompt that are shown where the page has several prompts: a line of them."""


@dataclass(frozen=True)
class Tab:
    """One part of a page.

    Attributes:
        text: What its button says.
        body: Its markup, every token in it escaped.
        prob: A probability, which shades the button; None for none.
        whole: Whether it is of several tokens, and its button no token of the text.
    """

    text: str
    body: Markup
    prob: float | None = None
    whole: bool = False


@dataclass(frozen=True)
class Line:
    """A prompt and the parts on what comes after it.

    Attributes:
        prompt: The prompt's tokens.
        tabs: The tabs, in the order of their buttons.
    """

    prompt: tuple[str, ...]
    tabs: tuple[Tab, ...]


def paged(lines: Sequence[Line], heading: Markup, title: str, *, first: Tab | None = None) -> View:
    """Return the page of all lines.

    Args:
        lines: What the page is of.
        heading: What stands over the text.
        title: The page's title.
        first: A part on all of it, shown first; the first of the first line by default.
    """
    tabs = [*([] if first is None else [first]), *(tab for line in lines for tab in line.tabs)]
    bodies = [_without_scripts(tab.body) for tab in tabs]
    used = [name for name in _SCRIPTS if name == _SCRIPTS[0] or any(_script(name) in tab.body for tab in tabs)]
    numbered = iter(range(0 if first is None else 1, len(tabs)))
    shown = [
        {"tokens": line.prompt if len(lines) == 1 else line.prompt[-_LONGEST:], "cut": _is_cut(line, lines),
         "tabs": [(next(numbered), tab) for tab in line.tabs]}
        for line in lines
    ]  # fmt: skip
    body = render(
        "tabs.html.j2",
        heading=heading,
        first=first,
        lines=shown,
        shown=bodies[0],
        packed=page_data({"parts": ["", *map(packed, bodies[1:])]}),
        scripts=[asset(name) for name in (*used, "unpack.js", "tabs.js")],
    )
    return View(body, title, scripted=_ATTENTION in used, whole=True)


def _is_cut(line: Line, lines: Sequence[Line]) -> bool:
    return len(lines) > 1 and len(line.prompt) > _LONGEST


def _without_scripts(body: Markup) -> Markup:
    text = str(body)
    for name in _SCRIPTS:
        text = text.replace(_script(name), "")
    return Markup(text)


def _script(name: str) -> str:
    return f"<script>{asset(name)}</script>"
