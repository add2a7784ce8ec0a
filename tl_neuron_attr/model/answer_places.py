"""Where the tokens of answers are scored: each at the position before it, all of an answer added up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tl_neuron_attr.model.answer_tokens import Answer, AnyOf
from tl_neuron_attr.model.positions import Pos, Positions, from_start
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.targets import Target, per_prompt
from tl_neuron_attr.numerics.answer_sums import AnswerSums


@dataclass(frozen=True)
class PlacedAnswer:
    """An answer in the prompts of a cache.

    Attributes:
        answer: The answer.
        result: Which result it counts for.
        sign: 1, or -1 for an answer of a contrast.
        row: The row of the cache that holds it.
        start: The position that predicts its first token.
    """

    answer: Answer
    result: int
    sign: int
    row: int
    start: int


def in_cache(stream: Stream, target: Target, contrast: Target | None, pos: Pos) -> list[PlacedAnswer]:
    """Return answers placed in a cache that a user gave.

    An :class:`~tl_neuron_attr.Answer` is the end of each prompt's text where ``pos`` is the last position, which is the
    default; else it begins behind ``pos``. Sets and contrasts are of single tokens.

    Raises:
        ValueError: If a set or a contrast holds an answer of several tokens, or the text does not end with the answer.
        IndexError: If a position or token id is out of range.
    """
    if not stream.has("embed.hook_in"):
        raise ValueError("cache lacks embed.hook_in, which shows whether it holds the answer: let names_filter pass it")
    batch, length, _ = stream.shape
    at_end = isinstance(pos, int) and pos == -1
    starts = from_start(pos, batch, length).expand(batch).tolist()
    targets = per_prompt(stream.model, target, batch)
    contrasts = [None] * batch if contrast is None else per_prompt(stream.model, contrast, batch, "contrast")
    placed: list[PlacedAnswer] = []
    for row, (followed, other) in enumerate(zip(targets, contrasts, strict=True)):
        start = starts[row]
        if isinstance(followed, Answer) and at_end:
            _require_end(stream, followed, row)
            start -= len(followed)
        answers = (followed,) if isinstance(followed, Answer) else _single(stream.model, followed, "target")
        placed += [PlacedAnswer(answer, row, 1, row, start) for answer in answers]
        if other is not None:
            placed += [PlacedAnswer(a, row, -1, row, start) for a in _single(stream.model, other, "contrast")]
    return placed


def _single(model: Any, answers: Answer | AnyOf, name: str) -> tuple[Answer, ...]:
    """Return answers of one token each."""
    found = (answers,) if isinstance(answers, Answer) else answers.resolved(model, name)
    for each in found:
        if len(each) > 1:
            raise ValueError(
                f"{name} {each.text!r} is {len(each)} tokens, and one cache holds one answer: use "
                "tna.answer(model, prompt, ...), which runs the prompt with each"
            )
    return found


def _require_end(stream: Stream, answer: Answer, row: int) -> None:
    ids = stream.tokens()
    end = [] if ids is None else ids[row, -len(answer) :].tolist()
    if end != list(answer.tokens):
        raise ValueError(
            f"target {answer.text!r} is not how prompt {row} of the cache ends, {end}: cache prompt and answer, as "
            "tna.answer(model, prompt, answer) does, or pass pos=, the position before the answer"
        )


def places_of(stream: Stream, placed: Sequence[PlacedAnswer]) -> tuple[Positions, Int[Tensor, "place"], AnswerSums]:
    """Return the places that predict the tokens of answers, those tokens, and how their scores add up.

    The answers are given in the order of their results.

    Raises:
        ValueError: If the cache's tokens are not those of an answer.
    """
    _require_in_cache(stream, placed)
    return placed_sums(placed, stream.device)


def placed_sums(
    placed: Sequence[PlacedAnswer], device: torch.device
) -> tuple[Positions, Int[Tensor, "place"], AnswerSums]:
    """Return what :func:`places_of` does, of answers known to be where they are placed."""

    def tensor(values: list[int]) -> Int[Tensor, "n"]:
        return torch.tensor(values, device=device)

    row = tensor([each.row for each in placed for _ in each.answer.tokens])
    pos = tensor([each.start + i for each in placed for i in range(len(each.answer))])
    target = tensor([token for each in placed for token in each.answer.tokens])
    sums = AnswerSums(
        answer=tensor([i for i, each in enumerate(placed) for _ in each.answer.tokens]),
        result=tensor([each.result for each in placed]),
        sign=tensor([each.sign for each in placed]),
    )
    return Positions(row, pos), target, sums


def _require_in_cache(stream: Stream, placed: Sequence[PlacedAnswer]) -> None:
    """Refuse a cache whose text is not what the answers are scored in; the last token need not be there."""
    ids, length = stream.tokens(), stream.shape[1]
    for each in placed:
        before, end = each.answer.tokens[:-1], each.start + len(each.answer)
        if each.start < 0 or end > length:
            raise ValueError(
                f"answer {each.answer.text!r} of {len(each.answer)} tokens does not fit behind position {each.start} "
                f"of the cache's {length}: cache prompt and answer, as tna.answer(model, prompt, answer) does"
            )
        found = [] if ids is None else ids[each.row, each.start + 1 : end].tolist()
        if ids is not None and found != list(before):
            raise ValueError(
                f"answer {each.answer.text!r} is not what the cache holds behind position {each.start}: "
                f"{found} instead of {list(before)}. Use tna.answer(model, prompt, answer)"
            )
