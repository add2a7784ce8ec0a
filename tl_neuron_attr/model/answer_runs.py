"""Prompts with the answers followed put behind them: what functions follow that run the model themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.model.answer_places import PlacedAnswer, placed_sums
from tl_neuron_attr.model.answer_tokens import Answer, AnyOf, require_room
from tl_neuron_attr.model.positions import Positions
from tl_neuron_attr.model.targets import Target, per_prompt
from tl_neuron_attr.numerics.answer_sums import AnswerSums
from tl_neuron_attr.numerics.sublayer import score_dtype


@dataclass(frozen=True)
class AnswerRuns:
    """Prompts, each run once for every answer of several tokens: one row per run.

    The last token of an answer is predicted and need not be run, so that a single token runs the prompt as it is.

    Attributes:
        tokens: The rows, padded behind, where nothing scored looks.
        lengths: How many tokens of each row are no padding.
        prompt: Which prompt each row is of.
        beginnings: How many tokens of each row are its prompt's.
        places: Where each token followed is predicted.
        target: Those tokens.
        sums: How their log-probabilities add up to one result per prompt.
    """

    tokens: Int[Tensor, "row pos"]
    lengths: tuple[int, ...]
    prompt: tuple[int, ...]
    beginnings: tuple[int, ...]
    places: Positions
    target: Int[Tensor, "place"]
    sums: AnswerSums

    @classmethod
    def of(
        cls,
        model: Any,
        ids: Int[Tensor, "batch pos"],
        target: Target,
        *,
        at: Int[Tensor, "batch"],
        contrast: Target | None = None,
    ) -> "AnswerRuns":
        """Return the runs of prompts of one length.

        Args:
            model: The model.
            ids: The prompts. Where an answer of several tokens is followed, what lies behind ``at`` is cut off.
            target: The token, answer or set of right answers followed, for all prompts or for each.
            at: The position that predicts the answer's first token, not negative.
            contrast: If given, ``log p(target) - log p(contrast)`` is followed.

        Raises:
            ValueError, IndexError, TypeError: As :func:`~tl_neuron_attr.model.targets.per_prompt`, or if prompt and
                answer are longer than the model's context.
        """
        followed = [_answers(model, each, "target") for each in per_prompt(model, target, len(ids))]
        others: list[tuple[Answer, ...]] = [()] * len(ids)
        if contrast is not None:
            others = [_answers(model, each, "contrast") for each in per_prompt(model, contrast, len(ids), "contrast")]
        ends = at.tolist()
        rows, placed = placed_rows(model, list(ids), ends, followed, others, last_token=False)
        places, tokens, sums = placed_sums(placed, ids.device)
        prompt = {each.row: each.result for each in placed}
        long = {each.row for each in placed if len(each.answer) > 1}
        return cls(
            tokens=padded_behind(model, rows),
            lengths=tuple(map(len, rows)),
            prompt=tuple(prompt[row] for row in range(len(rows))),
            beginnings=tuple(ends[prompt[i]] + 1 if i in long else len(row) for i, row in enumerate(rows)),
            places=places,
            target=tokens,
            sums=sums,
        )

    @property
    def most_tokens(self) -> int:
        """Return the number of tokens of the longest answer."""
        return 1 + max(length - begun for length, begun in zip(self.lengths, self.beginnings, strict=True))

    def row(self, row: int) -> Int[Tensor, "pos"]:
        """Return a row without padding."""
        return self.tokens[row, : self.lengths[row]]

    def places_in(self, row: int) -> Int[Tensor, "n"]:
        """Return which places lie in a row."""
        return (self.places.row == row).nonzero()[:, 0]

    def log_probs(self, logits: Float[Tensor, "row pos d_vocab"]) -> Float[Tensor, "prompt"]:
        """Return each prompt's log-probability of what is followed, in nats, from the logits of all rows."""
        log_p = logits[self.places.row, self.places.pos].to(score_dtype(logits.dtype)).log_softmax(-1)
        return self.sums.log_probs(log_p.gather(1, self.target[:, None])[:, 0])


def placed_rows(
    model: Any,
    prompts: Sequence[Int[Tensor, "_"]],
    at: Sequence[int],
    followed: Sequence[tuple[Answer, ...]],
    others: Sequence[tuple[Answer, ...]],
    *,
    last_token: bool,
) -> tuple[list[Int[Tensor, "_"]], list[PlacedAnswer]]:
    """Return the rows that hold prompts with answers behind them, and where each answer is scored.

    An answer of several tokens has a row of its own; single tokens are scored in any row of their prompt.

    Args:
        model: The model.
        prompts: The prompts.
        at: The position of each that predicts an answer's first token; what lies behind it gives way to the answer.
        followed: The right answers of each.
        others: The answers of the contrast of each.
        last_token: Whether rows hold the last token of an answer too, which is only predicted.

    Raises:
        ValueError: If prompt and answer are longer than the model's context.
    """
    rows: list[Int[Tensor, "_"]] = []
    placed: list[PlacedAnswer] = []
    for result, (ids, start, right, wrong) in enumerate(zip(prompts, at, followed, others, strict=True)):
        long = [each for each in dict.fromkeys((*right, *wrong)) if len(each) > 1]
        texts = long or ([right[0]] if last_token else [])
        own = {each: len(rows) + i for i, each in enumerate(texts)}
        first = len(rows)
        kept = [len(each) - (not last_token) for each in texts]
        rows += [_together(model, ids[: start + 1], each, n) for each, n in zip(texts, kept, strict=True)] or [ids]
        for sign, answers in ((1, right), (-1, wrong)):
            placed += [PlacedAnswer(a, result, sign, own.get(a, first), start) for a in answers]
    return rows, placed


def padded_behind(model: Any, rows: Sequence[Int[Tensor, "_"]]) -> Int[Tensor, "row pos"]:
    """Return rows of one length, padded behind: no earlier position attends there, whatever stands there."""
    pad = getattr(model.tokenizer, "pad_token_id", None) or 0
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=pad)


def _answers(model: Any, target: Answer | AnyOf, name: str) -> tuple[Answer, ...]:
    return target.resolved(model, name) if isinstance(target, AnyOf) else (target,)


def _together(model: Any, ids: Int[Tensor, "_"], answer: Answer, kept: int) -> Int[Tensor, "_"]:
    """Return the tokens of a prompt and the first ``kept`` of its answer.

    Raises:
        ValueError: If prompt and answer are longer than the model's context.
    """
    require_room(model, len(ids), answer)
    return torch.cat([ids, torch.tensor(answer.tokens[:kept], device=ids.device)])
