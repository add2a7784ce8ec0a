"""Target tokens as the user names them, checked against the vocabulary and the prompts."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tl_neuron_attr.model.answer_tokens import Answer, AnyOf
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.tokens import text_ids
from tl_neuron_attr.results.plural import plural
from tl_neuron_attr.results.token_text import quoted

Target = int | str | Answer | AnyOf | Sequence[int | str | Answer | AnyOf] | Int[Tensor, "batch"]
"""A token id, a string that is one token, an answer, a set of right answers, or one of these for each prompt."""

OneTarget = int | str | Answer
"""A token id, or an answer of one or several tokens."""


def answer_of(model: Any, target: OneTarget, name: str) -> Answer:
    """Return a target as an answer, which a token is too; errors as :meth:`Answer.of`."""
    return Answer.of(model, (target,) if isinstance(target, int) else target, name)


def contrast_each(contrast: OneTarget | Sequence[OneTarget] | None, count: int) -> Sequence[OneTarget | None]:
    """Return what each of ``count`` targets is compared with, None for nothing.

    Raises:
        ValueError: If there is not one for all prompts or one each.
    """
    each = [contrast] * count if contrast is None or isinstance(contrast, OneTarget) else contrast
    if len(each) != count:
        raise ValueError(f"contrast must be one for all prompts or one for each of the {count}, got {len(each)}")
    return each


def has_answers(*targets: Target | None) -> bool:
    """Return whether a target is an answer or a set of them, for one prompt or for all."""
    return any(
        isinstance(each, Answer | AnyOf)
        for target in targets
        for each in (target if isinstance(target, Sequence) and not isinstance(target, str) else [target])
    )


def per_prompt(model: Any, target: Target, batch: int, name: str = "target") -> list[Answer | AnyOf]:
    """Return ``target`` as an answer, or a set of them, for each of ``batch`` prompts; a token is a set of one.

    Raises:
        ValueError, IndexError, TypeError: As :func:`one_each`.
    """
    if isinstance(target, Sequence) and not isinstance(target, str):
        if len(target) != batch:
            raise ValueError(
                f"{name} must hold one token or answer per prompt: {plural(batch, 'prompt')}, got {len(target)}"
            )
        return [each for one in target for each in per_prompt(model, one, 1, name)]
    if isinstance(target, AnyOf):
        return [target] * batch
    if isinstance(target, Answer):
        return [Answer.of(model, target, name)] * batch
    return [AnyOf((token,)) for token in one_each(model, target, batch, name).tolist()]


_SHOWN_PIECES = 8
"""How many tokens of a text an error shows: a whole prompt may have been passed as the target."""


def token_ids(stream: Stream, target: Target, name: str = "target") -> Int[Tensor, "batch"]:
    """Return ``target`` as one token id for each prompt of a cache; errors as :func:`one_each`."""
    return one_each(stream.model, target, stream.shape[0], name).to(stream.device)


def one_each(model: Any, target: Target, batch: int, name: str = "target") -> Int[Tensor, "batch"]:
    """Return ``target`` as one token id for each of ``batch`` prompts.

    Raises:
        ValueError: If a string is not exactly one token, or there is not one target per prompt.
        IndexError: If an id is outside the vocabulary.
        TypeError: If ``target`` is none of the kinds of :data:`Target`.
    """
    d_vocab = model.W_U.shape[1]
    if isinstance(target, (int, str)) and not isinstance(target, bool):
        ids = [token_id(model, target, name)] * batch
    elif has_answers(target):
        raise ValueError(
            f"{name} must be one token here, got {target!r}: answers are scored in what tna.answer or tna.scored made"
        )
    elif isinstance(target, Tensor) and not target.is_floating_point() and target.ndim <= 1:
        ids = target.reshape(-1).tolist() * (batch if target.ndim == 0 else 1)
    elif isinstance(target, Sequence):
        ids = [token_id(model, each, name) for each in target if not isinstance(each, Answer | AnyOf)]
    else:
        raise TypeError(
            f"{name} must be a token id, a string that is one token, or one of them per prompt, got {target!r}"
        )
    if len(ids) != batch:
        raise ValueError(f"{name} must hold one token per prompt: {plural(batch, 'prompt')}, got {len(ids)}")
    for each in ids:
        if not 0 <= each < d_vocab:
            raise IndexError(f"{name} must be a token id between 0 and {d_vocab - 1}, got {each}")
    return torch.tensor(ids)


def token_id(model: Any, target: int | str, name: str) -> int:
    """Return ``target`` as a token id.

    Raises:
        ValueError: If a string is not exactly one token.
    """
    if isinstance(target, bool):
        raise TypeError(f"{name} must be made of token ids or strings, got {target!r}")
    if isinstance(target, int):
        return target
    ids = text_ids(model, target, name)
    if len(ids) != 1:
        more = ", ..." * (len(ids) > _SHOWN_PIECES)
        pieces = ", ".join(quoted(model.tokenizer.decode([i])) for i in ids[:_SHOWN_PIECES])
        raise ValueError(
            f"{name}={quoted(target)} must be one token, it is {len(ids)}: [{pieces}{more}]; "
            f"{_other_spelling(model, target)}"
        )
    if ids[0] == model.tokenizer.unk_token_id and target.strip() != model.tokenizer.unk_token:
        raise ValueError(
            f"{name}={quoted(target)} is not in the model's vocabulary: it reads as {model.tokenizer.unk_token!r}"
        )
    return ids[0]


def _other_spelling(model: Any, target: str) -> str:
    """Return what to do where a target is several tokens: tokenizers differ in whether a word begins with its space."""
    word = target.strip()
    other = word if target != word else f" {word}"
    if word and len(ids := text_ids(model, other, "target")) == 1 and ids[0] != model.tokenizer.unk_token_id:
        return f"{other!r} is one token, pass that"
    return "pass one of them, an id, or all of them by tna.answer(model, prompt, ...)"
