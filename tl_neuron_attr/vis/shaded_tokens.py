"""A prompt's tokens, shaded by a number each: blue where it is positive, red where it is negative."""

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from tl_neuron_attr.vis.templates import render

_STRONG = 0.55
"""The share of the full colour from which text reads better in the colour of the paper."""


def shaded_tokens(tokens: Sequence[str], values: Iterable[float], *, largest: float, number_format: str) -> Markup:
    """Return the tokens as markup without a script, each with its number as a tooltip.

    Args:
        tokens: The prompt's tokens.
        values: One number per token.
        largest: The absolute value that gets the full colour.
        number_format: The format of a number in the tooltip, as in ``"{:+.3g} nats"``.

    Examples:
        >>> shaded_tokens([" Eiffel"], [5.13], largest=5.13, number_format="{:+.3g} nats").striptags()
        '␣Eiffel'
    """
    shades = [
        {
            "token": token,
            "sign": "down" if value < 0 else "up",
            "share": abs(value) / largest,
            "strong": abs(value) > _STRONG * largest,
            "number": number_format.format(value),
        }
        for token, value in zip(tokens, values, strict=True)
    ]
    return render("shaded_tokens.html.j2", shades=shades)
