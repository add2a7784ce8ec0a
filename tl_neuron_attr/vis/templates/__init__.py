"""The page's markup and style, filled in by Jinja with every value escaped."""

from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tl_neuron_attr.results.token_text import visible

_FOLDER = Path(__file__).resolve().parent


@cache
def asset(name: str) -> Markup:
    """Return a file of this folder as it is."""
    return Markup((_FOLDER / name).read_text(encoding="utf-8"))


def render(template: str, /, **values: object) -> Markup:
    """Return a template filled in; strings are escaped unless they are ``Markup``."""
    return Markup(_environment().get_template(template).render(**values))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tl_neuron_attr.vis", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = visible
    return environment
