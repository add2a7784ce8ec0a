"""Prompts in batches of one length: nothing is padded, so no result depends on what shares a batch.

Answers of several tokens stand behind their prompts, in batches of one length of prompt and one length of answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.model.tokens import prompt_ids


@dataclass(frozen=True)
class Batch:
    """Some prompts of equal length.

    Attributes:
        indices: Which prompts, by their place in the list given.
        tokens: Their token ids.
    """

    indices: list[int]
    tokens: Int[Tensor, "batch pos"]


def batches(model: Any, prompts: Sequence[str], *, batch_size: int) -> Iterator[Batch]:
    """Yield the prompts, tokenised by :func:`~tl_neuron_attr.model.tokens.prompt_ids`, shortest first.

    Raises:
        ValueError: If there is no prompt, or one is empty.
    """
    if not prompts:
        raise ValueError("prompts is empty: give at least one")
    if "" in prompts:
        raise ValueError(f"prompts[{list(prompts).index('')}] is empty")
    yield from of_tokens([prompt_ids(model, prompt) for prompt in prompts], batch_size=batch_size)


def of_tokens(tokens: Sequence[Int[Tensor, "_"]], *, batch_size: int) -> Iterator[Batch]:
    """Yield tokenised prompts, shortest first."""
    for chosen in of_one_shape([(len(ids),) for ids in tokens], batch_size):
        yield Batch(chosen, torch.stack([tokens[i] for i in chosen]))


@dataclass(frozen=True)
class AnswerBatch:
    """Some prompts of equal length with answers of equal length behind them.

    Attributes:
        indices: Which prompts, by their place in the list given.
        tokens: The token ids of prompt and answer, but for the answer's last token, which is only predicted.
        target: The tokens of each answer.
    """

    indices: list[int]
    tokens: Int[Tensor, "batch pos"]
    target: Int[Tensor, "batch token"]

    @property
    def prompts(self) -> Int[Tensor, "batch pos"]:
        """The token ids of the prompts alone."""
        return self.tokens[:, : self.tokens.shape[1] - self.target.shape[1] + 1]

    def predicting(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, "batch token d_vocab"]:
        """Return the logits that predict the answers' tokens."""
        return predicting(logits, self.target)


def predicting(
    logits: Float[Tensor, "batch pos d_vocab"], target: Int[Tensor, "*batch token"]
) -> Float[Tensor, "batch token d_vocab"]:
    """Return the logits that predict an answer's tokens, where each row ends before the last of them."""
    return logits[:, -target.shape[-1] :]


def answer_batches(
    prompts: Sequence[Int[Tensor, "_"]], answers: Sequence[Sequence[int]], *, batch_size: int
) -> Iterator[AnswerBatch]:
    """Yield tokenised prompts with their answers behind them, shortest prompts first, then shortest answers."""
    shapes = [(len(ids), len(answer)) for ids, answer in zip(prompts, answers, strict=True)]
    for chosen in of_one_shape(shapes, batch_size):
        asked = torch.stack([prompts[i] for i in chosen])
        target = torch.tensor([answers[i] for i in chosen], device=asked.device)
        yield AnswerBatch(chosen, torch.cat([asked, target[:, :-1]], dim=1), target)


def of_one_shape(shapes: Sequence[tuple[int, ...]], batch_size: int) -> Iterator[list[int]]:
    """Yield the places of equal shapes, the smallest shape first."""
    for shape in sorted(set(shapes)):
        same = [i for i, each in enumerate(shapes) if each == shape]
        for start in range(0, len(same), batch_size):
            yield same[start : start + batch_size]
