"""The MLP neurons of many cases compared in two runs, batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm
from transformer_lens import ActivationCache

from tl_neuron_attr.cna.arithmetic_cases import Case, case_batches, require_cases
from tl_neuron_attr.cna.compare_neurons import compare_without_text
from tl_neuron_attr.cna.neuron_comparison import NeuronComparison
from tl_neuron_attr.model import cache_checks
from tl_neuron_attr.model.components import Components
from tl_neuron_attr.model.intervene import ablate

Run = Callable[[Int[Tensor, "batch pos"]], ActivationCache]
"""Runs a model on prompts, in some condition, and returns what a comparison of MLP neurons needs."""


def plain(model: Any) -> Run:
    """Return how to run the model as it is."""
    return lambda tokens: model.run_with_cache(tokens, names_filter=cache_checks.needed_by(("mlp",), model))[1]


def zeroing(model: Any, components: Components) -> Run:
    """Return how to run the model with some heads or neurons zeroed."""

    def run(tokens: Int[Tensor, "batch pos"]) -> ActivationCache:
        with ablate(model, components):
            return plain(model)(tokens)

    return run


def paired_comparisons(
    mine: Run, other: Run, cases: Sequence[Case], *, batch_size: int, what: str, progress: bool
) -> Iterator[tuple[list[int], Int[Tensor, "batch pos"], Int[Tensor, "batch"], NeuronComparison]]:
    """Yield cases of one length: which, their tokens, their answers, and their MLP neurons compared in two runs."""
    require_cases(cases)
    with tqdm(total=len(cases), desc=what, unit="case", disable=not progress, delay=2) as bar:
        for batch in case_batches(cases, batch_size=batch_size):
            answers = torch.tensor([cases[i].answer for i in batch.indices])
            cache = mine(batch.tokens)
            yield batch.indices, batch.tokens, answers, compare_without_text(cache, other(batch.tokens), answers)
            bar.update(len(batch.indices))
