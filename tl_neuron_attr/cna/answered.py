"""Whether a model's likeliest next token is the answer, case by case."""

from collections.abc import Sequence
from typing import Any

import torch

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.cna.arithmetic_cases import Case, case_batches, require_cases
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.rerun import require_finite_logits, unembedding_last


@typechecked
@torch.no_grad()
def answered(model: Any, cases: Sequence[Case], *, batch_size: int = 256) -> list[bool]:
    """Return whether the model's likeliest next token is the answer, case by case.

    Raises:
        ValueError: If there is no case, or the logits hold NaN or Inf.

    Examples:
        >>> from tl_neuron_attr import demo
        >>> from tl_neuron_attr.cna import Problem, arithmetic_cases
        >>> model = demo.load()
        >>> answered(model, arithmetic_cases(model, [Problem(3, "+", 5)]))
        [True]
    """
    require_cases(cases)
    right = [False] * len(cases)
    for batch in case_batches(cases, batch_size=batch_size):
        tokens = batch.tokens.to(dimensions.device_of(model))
        with unembedding_last(model, tokens):
            logits = model(tokens)[:, 0]
        require_finite_logits(model, logits)
        for i, token in zip(batch.indices, logits.argmax(-1).tolist(), strict=True):
            right[i] = token == cases[i].answer
    return right
