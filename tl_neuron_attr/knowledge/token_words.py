"""What directions of the stream promote and suppress, in words a person can read; fragments of words are counted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr.model.readable_tokens import ReadableTokens
from tl_neuron_attr.model.stream_keys import embeddings, stream_keys
from tl_neuron_attr.numerics.ranked_tokens import ranked_embeddings, ranked_tokens
from tl_neuron_attr.numerics.readout import Readout
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.results.token_text import token_texts

_Beside = TypeVar("_Beside")

LISTED = 12
"""Tokens looked at of each list: of twelve, enough are words for a line of them wherever a neuron speaks in words."""


@dataclass(frozen=True)
class WordList:
    """The first tokens of a ranking, and which of them are words or begin one.

    Examples:
        >>> words = WordList((" Paris", "ris", " France"), (True, False, True))
        >>> words.readable, words.fragments
        ((' Paris', ' France'), 1)
    """

    tokens: tuple[str, ...]
    is_word: tuple[bool, ...]

    @property
    def readable(self) -> tuple[str, ...]:
        """The words, in order."""
        return tuple(token for token, word in zip(self.tokens, self.is_word, strict=True) if word)

    @property
    def words_first(self) -> tuple[str, ...]:
        """The words, and then the fragments."""
        return tuple(token for token, _ in sorted(self.marked, key=lambda mark: not mark[1]))

    @property
    def fragments(self) -> int:
        """How many tokens are no words: byte fragments, reserved tokens, punctuation, continuations."""
        return len(self.tokens) - len(self.readable)

    @property
    def marked(self) -> list[tuple[str, bool]]:
        """Each token, and whether it is a word."""
        return list(zip(self.tokens, self.is_word, strict=True))


@dataclass(frozen=True)
class RankedWords:
    """What a vector promotes and suppresses.

    Attributes:
        promoted: The tokens of the highest logits.
        suppressed: The tokens of the lowest logits.
        rank: The place of the token followed, 1 for the one promoted most.
    """

    promoted: WordList
    suppressed: WordList
    rank: int


class TokenWords:
    """Lists of tokens for a model, each token and vector looked at once. Without a tokenizer every token is a word.

    Args:
        model: The model.
        readout: The readout whose vocabulary is listed.
    """

    def __init__(self, model: Any, readout: Readout) -> None:
        self._model = model
        self._readout = readout
        self._found: dict[tuple[int, bytes], RankedWords] = {}
        self._noted: dict[tuple[int, bytes], Tensor] = {}
        self._switched: dict[tuple[bool | None, bytes], WordList] = {}
        self._noted_keys: dict[tuple[bool | None, bytes], Tensor] = {}
        self._is_word = ReadableTokens(model) if model.tokenizer is not None else None

    def promoted(self, vectors: Float[Tensor, "n d_model"], token: int = 0) -> list[WordList]:
        """Return what each vector promotes; ``token`` is the one whose ranks are asked for beside it, if any."""
        return [each.promoted for each in self.ranked(vectors, token)]

    def note(self, vectors: Float[Tensor, "n d_model"], token: int) -> None:
        """Add vectors that :meth:`ranked` will be asked for: its next call ranks them too, in one pass over ``W_U``."""
        self._noted |= {key: row for key, row in _keyed(vectors, token) if key not in self._found}

    def ranked(self, vectors: Float[Tensor, "n d_model"], token: int) -> "list[RankedWords]":
        """Return what each vector promotes and suppresses most, and where ``token`` stands among all."""
        self.note(vectors, token)
        keys = [key for key, _ in _keyed(vectors, token)]
        if any(key in self._noted for key in keys):
            new = [key for key in self._noted if key[0] == token]
            rows = torch.stack([self._noted.pop(key) for key in new])
            found = ranked_tokens(self._readout, rows, LISTED, token)
            each = zip(found.highest.tolist(), found.lowest.tolist(), found.rank.tolist(), strict=True)
            ranked = [RankedWords(self.listed(high), self.listed(low), rank) for high, low, rank in each]
            self._found.update(zip(new, ranked, strict=True))
        return [self._found[key] for key in keys]

    def note_keys(self, neurons: Neurons) -> list[tuple[bool | None, bytes]]:
        """Add neurons that :meth:`switched_on_by` will be asked for: its next call looks at them too, in one pass.

        Returns:
            What each neuron's key is known by.
        """
        keys = stream_keys(self._model, neurons)
        named = _keyed(keys.vectors, keys.centred)
        self._noted_keys |= {name: key for name, key in named if name not in self._switched}
        return [name for name, _ in named]

    def switched_on_by(self, neurons: Neurons) -> list[WordList]:
        """Return the tokens whose embeddings fit each neuron's key best, as :func:`~tl_neuron_attr.key_tokens` does.

        Raises:
            ValueError: If the model's stream does not begin with its embeddings.
            IndexError: If a neuron is not of this model.
        """
        W_E, names = embeddings(self._model), self.note_keys(neurons)
        if any(name in self._noted_keys for name in names):
            centred = names[0][0]
            new = [name for name in self._noted_keys if name[0] == centred]
            rows = torch.stack([self._noted_keys.pop(name) for name in new])
            ids, _ = ranked_embeddings(W_E, rows, LISTED, centred=centred)
            self._switched.update(zip(new, map(self.listed, ids.tolist()), strict=True))
        return [self._switched[name] for name in names]

    def listed(self, tokens: Sequence[int]) -> WordList:
        """Return the texts of tokens, and which of them are words."""
        is_word = tuple(self._is_word is None or self._is_word(token) for token in tokens)
        (texts,) = token_texts(self._model, [tokens])
        return WordList(texts, is_word)


def _keyed(vectors: Float[Tensor, "n d_model"], beside: _Beside) -> list[tuple[tuple[_Beside, bytes], Tensor]]:
    """Return each vector with what it is known by: what it was asked for with, and its numbers."""
    return [((beside, row.detach().cpu().numpy().tobytes()), row) for row in vectors]
