"""The text of tokens, and how it is shown."""

import json
from collections.abc import Sequence
from typing import Any

_SPACE = "\u2423"
_SHOWN = 72
"""Characters of a prompt in a line: what fits on a line of a terminal beside the rest."""


def token_text(model: Any, token: int) -> str:
    """Return the text of one token, its leading space kept; ``"#7"`` for a model without a tokenizer."""
    tokenizer = model.tokenizer
    if tokenizer is None:
        return f"#{token}"
    text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    piece = tokenizer.convert_ids_to_tokens(token)
    sentencepiece = isinstance(piece, str) and piece.startswith("\u2581")
    return encodable(f" {text.lstrip()}" if sentencepiece else text)


def token_texts(model: Any, lists: Sequence[Sequence[int]]) -> tuple[tuple[str, ...], ...]:
    """Return lists of tokens as lists of their texts, each token looked at once."""
    text = {token: token_text(model, token) for token in {token for tokens in lists for token in tokens}}
    return tuple(tuple(text[token] for token in tokens) for tokens in lists)


def text_of(model: Any, tokens: Sequence[int]) -> str:
    """Return the text of tokens that follow one another; of one token as :func:`token_text`."""
    if model.tokenizer is None or len(tokens) == 1:
        return " ".join(token_text(model, token) for token in tokens)
    return encodable(model.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))


def encodable(text: str) -> str:
    r"""Return text that can be written and framed: lone surrogates, which no encoding holds, shown by their escape.

    Examples:
        >>> encodable("caf\u00e9 \ud83d") == "caf\u00e9 \\ud83d"
        True
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def quoted(text: str, most: int = 40) -> str:
    """Return text as an error shows it: quoted, and cut where it is long.

    Examples:
        >>> quoted("Paris"), quoted("Paris" * 100, 8)
        ("'Paris'", "'ParisPar'...")
    """
    return repr(text) if len(text) <= most else f"{text[:most]!r}..."


def visible(text: str) -> str:
    """Return token text for a table: one line, spaces at the ends and control characters made visible."""
    core = text.strip(" ")
    lead, tail = len(text) - len(text.lstrip(" ")), len(text) - len(text.rstrip(" "))
    return _SPACE * lead + printable(core) + (_SPACE * tail if core else "")


def in_quotes(text: str) -> str:
    r"""Return text in double quotes, its own spaces kept and nothing in it that a terminal would act on.

    Examples:
        >>> in_quotes(" 8"), in_quotes("right-to-left \u202e") == r'"right-to-left \u202e"'
        ('" 8"', True)
    """
    return printable(json.dumps(text, ensure_ascii=False))


def prompt_in_quotes(prompt: str) -> str:
    """Return a prompt in double quotes as a caption shows it: of a long one the end, where the prediction is made.

    Examples:
        >>> prompt_in_quotes("3 + 5 ="), prompt_in_quotes("word " * 99 + "3 + 5 =")[-13:]
        ('"3 + 5 ="', 'word 3 + 5 ="')
    """
    return in_quotes(prompt if len(prompt) <= _SHOWN else f"...{prompt[-_SHOWN:]}")


def printable(text: str) -> str:
    """Return text on one line, control characters shown by their escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
