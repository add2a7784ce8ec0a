"""What is left of a batch's answers without the neurons that each method picks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr.evaluate.contrasted import ContrastedBatch
from tl_neuron_attr.evaluate.method_scores import GRADIENTS, UNTOUCHED, AnyMethod, best_by_method
from tl_neuron_attr.evaluate.outcome import Outcome
from tl_neuron_attr.evaluate.rank_scores import RankScores
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.batches import AnswerBatch
from tl_neuron_attr.model.effect_gradients import require_precision
from tl_neuron_attr.model.intervene import ablate


def outcomes_by_method(
    model: Any,
    batch: AnswerBatch,
    methods: Mapping[str, AnyMethod],
    counts: Sequence[int],
    seed: int,
    ranks: RankScores,
) -> Iterator[tuple[str, int, Outcome]]:
    """Yield what is left of the answers untouched, then by method and by number of neurons zeroed, smallest first.

    Raises:
        ValueError: If a method takes gradients, and the model is in half precision.
    """
    if GRADIENTS & methods.keys():
        require_precision(model)
    with torch.no_grad():
        logits, cache = model.run_with_cache(batch.tokens)
    yield UNTOUCHED, 0, _outcome(model, batch, logits)
    for name, method in methods.items():
        ranked = best_by_method(model, cache, batch, method, max(counts), seed, ranks)
        for k in counts:
            with ablate(model, ranked.top(k)), torch.no_grad():
                left = _outcome(model, batch, model(batch.tokens))
            yield name, k, left


@torch.no_grad()
def _outcome(model: Any, batch: AnswerBatch, logits: Float[Tensor, "batch pos d_vocab"]) -> Outcome:
    """Return the outcome of a batch's logits; of contrasts, which are another run, too."""
    found = Outcome.of(batch.predicting(logits), batch.target)
    if not isinstance(batch, ContrastedBatch):
        return found
    return found.against(_outcome(model, batch.against, model(batch.against.tokens)))


def require_neurons(model: Any, counts: Sequence[int]) -> None:
    """Refuse a number of neurons that the model does not have.

    Raises:
        ValueError: Naming how many there are.
    """
    available = sum(dimensions.d_mlp(model, layer) for layer in range(model.cfg.n_layers))
    for k in counts:
        if not 1 <= k <= available:
            raise ValueError(f"k must be between 1 and the {available} MLP neurons, got {k}")
