"""The page's markup and style, filled in by Jinja with every value escaped."""

from functools import cache
from math import floor, log10
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tl_neuron_attr.results.token_text import printable, visible

_FOLDER = Path(__file__).resolve().parent


@cache
def asset(name: str) -> Markup:
    """Return a file of this folder as it is."""
    return Markup((_FOLDER / name).read_text(encoding="utf-8"))


def render(template: str, /, **values: object) -> Markup:
    """Return a template filled in; strings are escaped unless they are ``Markup``."""
    return Markup(_environment().get_template(template).render(**values))


def digits(value: float) -> str:
    """Return a number with three significant digits, as far as four decimals show them.

    Examples:
        >>> [digits(x) for x in (0.49706, -12.3456, 1234.5, 0.00041, -0.00001)]
        ['0.497', '-12.3', '1234', '0.0004', '0']
    """
    if abs(value) < 10**-_DECIMALS / 2:
        return "0"
    places = 2 - floor(log10(abs(value)))
    return f"{value:.{min(max(places, 0), _DECIMALS)}f}"


def nats(value: float) -> str:
    """Return :func:`digits` with its sign.

    Examples:
        >>> nats(5.2464), nats(-0.37418)
        ('+5.25', '-0.374')
    """
    shown = digits(value)
    return shown if shown == "0" or value < 0 else f"+{shown}"


def probability(value: float) -> str:
    """Return :func:`digits` of a probability, which is never shown as none at all.

    Examples:
        >>> probability(0.25), probability(1e-9)
        ('0.250', 'under 0.0001')
    """
    smallest = 10**-_DECIMALS
    return digits(value) if value >= smallest / 2 else f"under {smallest:.{_DECIMALS}f}"


_DECIMALS = 4
"""Scores are exact to about that many."""


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tl_neuron_attr.vis", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": visible, "printable": printable}
    environment.filters |= {"digits": digits, "nats": nats, "probability": probability}
    return environment
