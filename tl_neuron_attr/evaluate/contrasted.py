"""One answer against another in :func:`~tl_neuron_attr.evaluate.faithfulness`: neurons picked by their contrast.

    log p(target) - log p(contrast)

Each answer is run behind the prompt by itself; what methods pick neurons by, and what is left, is the difference of the
two runs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.evaluate.gradients import gradient, integrated_gradients
from tl_neuron_attr.knowledge.value_neurons import value_neurons
from tl_neuron_attr.model.answer import answer
from tl_neuron_attr.model.answer_tokens import Answer
from tl_neuron_attr.model.batches import AnswerBatch, answer_batches, of_one_shape
from tl_neuron_attr.results.neurons import Neurons

CONTRASTED = ("log_prob_increase", "gradient", "integrated_gradients", "random")
"""Methods that can pick neurons by a contrast: the other scores of paper 1 are of one token or answer."""


@dataclass(frozen=True)
class ContrastedBatch(AnswerBatch):
    """Some prompts with an answer behind each, and the same prompts with what it is compared with.

    Attributes:
        against: The contrasts.
    """

    against: AnswerBatch


def contrasted_batches(
    prompts: Sequence[Int[Tensor, "_"]], answers: Sequence[Answer], contrasts: Sequence[Answer], *, batch_size: int
) -> Iterator[ContrastedBatch]:
    """Yield tokenised prompts with their answers and contrasts, shortest prompts first."""
    shapes = [tuple(map(len, each)) for each in zip(prompts, answers, contrasts, strict=True)]
    for chosen in of_one_shape(shapes, batch_size):
        asked = [prompts[i] for i in chosen]
        mine, other = (
            next(answer_batches(asked, [each[i].tokens for i in chosen], batch_size=len(chosen)))
            for each in (answers, contrasts)
        )
        yield ContrastedBatch(chosen, mine.tokens, mine.target, other)


def best_by_increase(model: Any, batch: ContrastedBatch, k: int) -> Neurons:
    """Return each prompt's ``k`` best MLP neurons by their increase of the contrast, certified."""
    prompts = [*batch.prompts]
    followed, others = ([Answer.of(model, row) for row in each.target] for each in (batch, batch.against))
    return value_neurons(answer(model, prompts, followed, contrast=others), k=k, sites=("mlp",), text=False)


def gradient_scores(model: Any, batch: ContrastedBatch, method: str) -> Float[Tensor, "batch layer d_mlp"]:
    """Return every MLP neuron's ``"gradient"`` or ``"integrated_gradients"`` of the contrast."""
    score = gradient if method == "gradient" else integrated_gradients
    target, contrast = (score(model, each.tokens, each.target) for each in (batch, batch.against))
    return target - contrast


def require_contrasted(methods: Sequence[str]) -> None:
    """Refuse methods that cannot pick neurons by a contrast.

    Raises:
        ValueError: Naming them.
    """
    if others := [name for name in methods if name not in CONTRASTED]:
        raise ValueError(
            f"contrast given, and neurons cannot be picked by it with {others}: leave out contrast=, or give "
            f"scores={list(CONTRASTED)} or some of them, and no own_scores"
        )
