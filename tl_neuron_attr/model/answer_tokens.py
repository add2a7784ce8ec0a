"""Answers of one or several tokens, and sets of right answers, as tokens of a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from jaxtyping import Int
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.results.token_text import quoted

_BROKEN = "\ufffd"
"""What tokenizers put where bytes are no character."""


@typechecked_fields
@dataclass(frozen=True)
class Answer:
    """An answer of one or several tokens, each predicted at the position before it.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> tna.Answer.of(tna.demo.load(), " basketball .").text
        ' basketball .'

    Attributes:
        tokens: The token ids.
        text: What they say; empty for a model without a tokenizer.
    """

    tokens: tuple[int, ...]
    text: str = ""

    def __post_init__(self) -> None:
        if not self.tokens:
            raise ValueError("answer is empty: give at least one token")

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def of(
        cls, model: Any, answer: "str | Sequence[int] | Answer | Int[Tensor, 'n']", name: str = "answer"
    ) -> "Answer":
        """Return an answer's text or token ids as the model's tokens; no BOS is put before them.

        Raises:
            ValueError: If the answer is empty, holds what the vocabulary lacks, or ends within a character.
            IndexError: If an id is outside the vocabulary.
        """
        if isinstance(answer, Answer):
            tokens = answer.tokens
        elif isinstance(answer, str):
            tokens = _encoded(model, answer, name)
        else:
            tokens = tuple(answer.tolist() if isinstance(answer, Tensor) else answer)
        if not tokens:
            raise ValueError(f"{name} is empty: give at least one token")
        d_vocab = dimensions.d_vocab(model)
        for token in tokens:
            if not 0 <= token < d_vocab:
                raise IndexError(f"{name} must hold token ids between 0 and {d_vocab - 1}, got {token}")
        text = answer if isinstance(answer, str) else _decoded(model, tokens)
        if text.endswith(_BROKEN) and not isinstance(answer, str):
            raise ValueError(f"{name} {list(tokens)} ends within a character, {text!r}: give all of its tokens")
        return cls(tokens, text)


@typechecked_fields
@dataclass(frozen=True)
class AnyOf:
    """A set of right answers, of which any will do; made by :func:`any_of`.

    Attributes:
        answers: The answers.
    """

    answers: tuple[str | int | Answer, ...]

    def resolved(self, model: Any, name: str) -> tuple[Answer, ...]:
        """Return the answers as tokens.

        Raises:
            ValueError: If one is no answer, or two overlap: their probabilities would be counted twice.
            IndexError: If an id is outside the vocabulary.
        """
        found = tuple(
            Answer.of(model, (each,) if isinstance(each, int) else each, f"{name}, of which {each!r},")
            for each in self.answers
        )
        for shorter, longer in permutations(found, 2):
            if longer.tokens[: len(shorter)] == shorter.tokens:
                raise ValueError(
                    f"{name} overlaps: {longer.text!r} begins with {shorter.text!r} {list(shorter.tokens)}, so that "
                    "its probability would be counted twice. Leave one of them out"
                )
        return found


@typechecked
def any_of(*answers: str | int | Answer) -> AnyOf:
    """Return a set of right answers, scored as the log of their summed probability, exactly.

    It stands wherever a target does. In a cache of prompts each must be one token; :func:`~tl_neuron_attr.answer` takes
    answers of several.

    Args:
        *answers: Strings, token ids or answers.

    Raises:
        ValueError: If there are none.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> either = tna.scored(cache, tna.any_of(" basketball", " tennis"))
        >>> float(either.log_prob) >= float(tna.scored(cache, " basketball").log_prob)
        True
    """
    if not answers:
        raise ValueError("any_of: give at least one answer")
    return AnyOf(answers)


def require_room(model: Any, length: int, answer: Answer) -> None:
    """Refuse an answer that does not fit behind a prompt of ``length`` tokens.

    Raises:
        ValueError: If prompt and answer are longer than the model's context.
    """
    context = getattr(model.cfg, "n_ctx", None)
    if context and length + len(answer) > context:
        raise ValueError(
            f"prompt and answer are {length} + {len(answer)} tokens, the model's context {context}: "
            f"{answer.text[:40]!r}"
        )


def _encoded(model: Any, text: str, name: str) -> tuple[int, ...]:
    if model.tokenizer is None:
        raise ValueError(f"{name}={text!r} is a string and the model has no tokenizer: pass token ids")
    try:
        tokens = tuple(model.tokenizer.encode(text, add_special_tokens=False))
    except (UnicodeEncodeError, TypeError) as error:
        raise ValueError(f"{name}={text!r} holds half a character, which no tokenizer reads: {error}") from None
    unknown = model.tokenizer.unk_token_id
    if unknown is not None and unknown in tokens and model.tokenizer.unk_token not in text:
        raise ValueError(
            f"{name}={quoted(text)} is not in the model's vocabulary: a part of it reads as "
            f"{model.tokenizer.unk_token!r}"
        )
    return tokens


def _decoded(model: Any, tokens: Sequence[int]) -> str:
    return "" if model.tokenizer is None else model.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)
