"""Token text made harmless for circuitsvis, which puts it into the page as HTML and into a script as JSON."""

from collections.abc import Iterable

from tl_neuron_attr.results.token_text import printable

WORD_JOINER = "\u2060"
"""Invisible, and without width: it changes how markup is read, not how it looks."""


def harmless(text: str) -> str:
    """Return text that can be neither a tag nor a character reference, and looks the same.

    A ``<`` opens a tag, and a ``&`` a reference, only if a letter or one of ``/ ! ? #`` follows at once. An invisible
    character behind them makes both plain text, wherever the text is put: in markup, in an attribute or in a script,
    where ``</script>`` would otherwise end it. Control characters are shown by their escape.

    Examples:
        >>> harmless("</script>").replace(WORD_JOINER, "|")
        '<|/script>'
    """
    return printable(text).replace("<", "<" + WORD_JOINER).replace("&", "&" + WORD_JOINER)


def harmless_tokens(tokens: Iterable[str]) -> list[str]:
    """Return :func:`harmless` of each token; an empty one becomes a space, so that it can be pointed at."""
    return [harmless(token) or " " for token in tokens]
