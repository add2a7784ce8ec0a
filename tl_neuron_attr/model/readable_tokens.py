"""Which tokens a person can read: whole words and beginnings of words."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr.results.token_text import token_text

_MARKS = ("\u0120", "\u2581")
"""What byte-level and SentencePiece tokenizers put before a token that begins a word."""

_LOOKED_AT = 4096
"""Tokens looked at together for such a mark."""


class ReadableTokens:
    """Says of a token id whether it is a word or begins one; each is looked at once.

    Reserved tokens, byte fragments, punctuation and continuations of words are not readable. A tokenizer that marks no
    beginnings has whole words only.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> readable = ReadableTokens(model)
        >>> [readable(model.to_single_token(word)) for word in ("basketball", "<bos>", "+")]
        [True, False, False]
    """

    def __init__(self, model: Any) -> None:
        if model.tokenizer is None:
            raise ValueError("readable=True needs a tokenizer, and the model has none: leave it out")
        self._model = model
        self._reserved = {*model.tokenizer.all_special_ids, *model.tokenizer.get_added_vocab().values()}
        self._marked = _marks_beginnings(model.tokenizer)
        self._known: dict[int, bool] = {}

    def __call__(self, token: int) -> bool:
        """Return whether a token is readable."""
        if token not in self._known:
            self._known[token] = self._is_word(token)
        return self._known[token]

    def _is_word(self, token: int) -> bool:
        text = token_text(self._model, token)
        begins = text.startswith(" ") or not self._marked
        return token not in self._reserved and begins and text.strip(" ").isalnum()


def _marks_beginnings(tokenizer: Any) -> bool:
    """Return whether tokens that begin a word are marked: the first thousands tell, and a whole vocabulary is slow."""
    ids = range(len(tokenizer))
    chunks = (ids[start : start + _LOOKED_AT] for start in range(0, len(ids), _LOOKED_AT))
    return any(
        piece is not None and piece.startswith(_MARKS)
        for chunk in chunks
        for piece in tokenizer.convert_ids_to_tokens(list(chunk))
    )


def best_tokens(values: Float[Tensor, "d_vocab"], k: int, words: Callable[[int], bool] | None) -> tuple[list[int], int]:
    """Return the ``k`` tokens of the highest values, or of the highest that are readable, and how many were left out.

    Few are looked at where the first are readable: a whole vocabulary takes a second to read.
    """
    if words is None:
        return values.topk(k).indices.tolist(), 0
    seen = min(4 * k, len(values))
    while True:
        kept = [(at, token) for at, token in enumerate(values.topk(seen).indices.tolist()) if words(token)]
        if len(kept) >= k or seen == len(values):
            break
        seen = min(4 * seen, len(values))
    last = kept[k - 1][0] + 1 if len(kept) >= k else len(values)
    return [token for _, token in kept[:k]], last - len(kept[:k])
