"""Prompts run with their answers, once, and scored token by token."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.answer_runs import padded_behind, placed_rows
from tl_neuron_attr.model.answer_tokens import Answer, AnyOf
from tl_neuron_attr.model.scored import scored_answers
from tl_neuron_attr.model.scored_cache import ScoredCache
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.tokens import prompt_ids, warn_of_two_bos
from tl_neuron_attr.numerics.increase import MAX_BYTES

OnePrompt = str | Int[Tensor, "_"]
"""A prompt's text, the tokenizer's BOS put first, or its token ids."""

OneAnswer = str | Answer | AnyOf | Int[Tensor, "_"]
"""An answer's text or token ids, or a set of right answers."""


@typechecked
@torch.no_grad()
def answer(
    model: Any,
    prompt: OnePrompt | Sequence[OnePrompt],
    answer: OneAnswer | Sequence[OneAnswer],
    *,
    contrast: OneAnswer | Sequence[OneAnswer] | None = None,
    final_bias: bool = True,
    max_bytes: int = MAX_BYTES,
) -> ScoredCache:
    """Run a prompt and its answer once, and return the scored cache of the whole answer.

    The log-probability of an answer is the sum of its tokens', each predicted at the position before it, and every
    score is the sum of theirs. What is returned takes the place of cache and target wherever a scored cache does;
    ``.per_token`` scores each token by itself.

    Args:
        model: The model.
        prompt: A prompt, or several of any length: they are padded on the right, which nothing scored can see.
        answer: The answer, one for all prompts or one each; a set of right answers by :func:`~tl_neuron_attr.any_of`,
            scored as the log of their summed probability. Its tokens are its own: none reaches across the end of the
            prompt, so that most answers begin with a space.
        contrast: If given, scores are of ``log p(answer) - log p(contrast)``, whatever the lengths of the two: an
            answer of more tokens is seldom as likely, so compare answers of one length where you can.
        final_bias: False leaves the final norm's bias out of the base, as the authors' GPT-2 notebook does.
        max_bytes: A cap on the base distributions kept; where they are larger, every call reads them out again.

    Returns:
        A scored cache; results have a batch dimension if several prompts are given.

    Raises:
        ValueError: If a prompt or an answer is empty, an answer ends within a character, answers of a set overlap,
            prompt and answer are longer than the model's context, or as :func:`~tl_neuron_attr.scored`.
        IndexError: If a token id is out of range.

    Warns:
        UserWarning: If a prompt given by its tokens begins with two BOS.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> both = tna.answer(tna.demo.load(), "Tim Duncan plays the sport of", " basketball .")
        >>> bool(both.log_prob.exp() > 0.9)
        True
        >>> tna.value_neurons(both, k=3).per_token.score.shape  # two tokens, three neurons
        torch.Size([2, 3])
    """
    one = isinstance(prompt, str | Tensor)
    prompts = [prompt] if isinstance(prompt, str | Tensor) else list(prompt)
    if not prompts:
        raise ValueError("prompt is empty: give at least one")
    followed = _each(model, answer, len(prompts), "answer")
    others = _each(model, contrast, len(prompts), "contrast")
    ids = [_ids(model, text) for text in prompts]
    rows, placed = placed_rows(model, ids, [len(each) - 1 for each in ids], followed, others, last_token=True)
    _, cache = model.run_with_cache(padded_behind(model, rows))
    found = scored_answers(Stream(cache, model), placed, max_bytes, batched=not one)
    return found if final_bias else found.without_final_bias()


def _each(
    model: Any, answers: OneAnswer | Sequence[OneAnswer] | None, count: int, name: str
) -> list[tuple[Answer, ...]]:
    """Return the right answers of each prompt.

    Raises:
        ValueError: If there is not one for all prompts or one each.
    """
    if answers is None:
        return [()] * count
    several = answers if isinstance(answers, Sequence) and not isinstance(answers, str) else [answers] * count
    if len(several) != count:
        raise ValueError(f"{name} must be one for all prompts or one for each of the {count}, got {len(several)}")
    return [
        each.resolved(model, name) if isinstance(each, AnyOf) else (Answer.of(model, each, name),) for each in several
    ]


def _ids(model: Any, prompt: OnePrompt) -> Int[Tensor, "pos"]:
    if isinstance(prompt, str):
        return prompt_ids(model, prompt)
    if not len(prompt):
        raise ValueError("prompt is empty: give at least one token")
    warn_of_two_bos(model, prompt[None])
    return prompt.to(dimensions.device_of(model))
