"""What the site needs of MkDocs beyond its plugins: no page asks the network for anything."""

from typing import Any

from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

_FETCHED = "https://unpkg.com/iframe-worker/shim"


def on_post_page(output: str, *, page: Page, **_: Any) -> str:
    """The script by which pages opened from disk can search: our own, where the theme would fetch one."""
    return output.replace(_FETCHED, get_relative_url("javascripts/worker.js", page.url))


def on_post_template(output_content: str, **_: Any) -> str:
    """Pages that are templates alone (404) do not search."""
    return output_content.replace(f'<script src="{_FETCHED}"></script>', "")
