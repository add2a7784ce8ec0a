"""The MLP neurons of many cases that changed most between two runs, batch by batch: certified, not all scored."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm
from transformer_lens import ActivationCache

from tl_neuron_attr.cna.arithmetic_cases import Case, case_batches, require_cases
from tl_neuron_attr.cna.changed_neurons import changed_neurons
from tl_neuron_attr.model import cache_checks
from tl_neuron_attr.model.components import Components
from tl_neuron_attr.model.intervene import ablate
from tl_neuron_attr.model.run import run_at_last
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.results.neurons import Neurons

Run = Callable[[Int[Tensor, "batch pos"]], ActivationCache]
"""Runs a model on prompts, in some condition, and returns what a comparison of MLP neurons needs."""


@dataclass(frozen=True)
class ChangedCases:
    """Cases of one length, and the MLP neurons whose increase of the answer changed most between two runs of them.

    Attributes:
        indices: The number of each case among all.
        tokens: Their tokens.
        answers: Their answers.
        neurons: Of each case the neurons of the largest change, which is their ``score``; coefficients are those of the
            first run.
        coefficient: Every MLP neuron's coefficient in the first run; 0 beyond the width of a narrower layer.
        other_coefficient: The same in the other run.
    """

    indices: list[int]
    tokens: Int[Tensor, "case pos"]
    answers: Int[Tensor, "case"]
    neurons: Neurons
    coefficient: Float[Tensor, "case layer neuron"]
    other_coefficient: Float[Tensor, "case layer neuron"]

    def other_coefficients(self, neurons: Neurons) -> Float[Tensor, "case k"]:
        """Return the coefficients of some neurons of each case in the other run."""
        case = torch.arange(len(self.indices), device=neurons.layer.device)[:, None]
        return self.other_coefficient[case, neurons.layer, neurons.index]


def plain(model: Any) -> Run:
    """Return how to run the model as it is."""
    return lambda tokens: run_at_last(model, tokens, cache_checks.needed_by(("mlp",), model))[1]


def zeroing(model: Any, components: Components) -> Run:
    """Return how to run the model with some heads or neurons zeroed."""

    def run(tokens: Int[Tensor, "batch pos"]) -> ActivationCache:
        with ablate(model, components):
            return plain(model)(tokens)

    return run


def paired_changes(
    mine: Run,
    other: Run,
    cases: Sequence[Case],
    k: int,
    *,
    layers: Sequence[int] | None = None,
    largest: bool = True,
    contrast: Int[Tensor, "case"] | None = None,
    batch_size: int,
    what: str,
    progress: bool,
) -> Iterator[ChangedCases]:
    """Yield cases of one length with the ``k`` MLP neurons that changed most between two runs.

    Args:
        mine: The run the change is counted from.
        other: The run it is compared with.
        cases: The cases.
        k: How many neurons of each case.
        layers: The layers searched; all by default.
        largest: False for the neurons that raise the answer more in the other run.
        contrast: If given, increases are of ``log p(answer) - log p(contrast)``; one token for each case.
        batch_size: The most cases run together.
        what: What the progress bar says.
        progress: Whether to show it.

    Raises:
        ValueError: If there is no case, or ``k`` is not between 1 and the number of neurons searched.
        IndexError: If a layer is out of range or named twice.
    """
    require_cases(cases)
    with tqdm(total=len(cases), desc=what, unit="case", disable=not progress, delay=2) as bar:
        for batch in case_batches(cases, batch_size=batch_size):
            answers = torch.tensor([cases[i].answer for i in batch.indices])
            caches = mine(batch.tokens), other(batch.tokens)
            found = changed_neurons(
                *caches,
                answers,
                k,
                layers=layers,
                largest=largest,
                contrast=None if contrast is None else contrast[batch.indices],
                text=False,
            )
            yield ChangedCases(batch.indices, batch.tokens, answers, found, *map(mlp_coefficients, caches))
            bar.update(len(batch.indices))


def mlp_coefficients(cache: ActivationCache) -> Float[Tensor, "case layer neuron"]:
    """Return every MLP neuron's coefficient at the last position, layers padded with zeros to the widest."""
    stream = Stream(cache)
    layers = [stream.mlp_coefficients(layer, stream.last) for layer in range(stream.n_layers)]
    widest = max(layer.shape[1] for layer in layers)
    return torch.stack([torch.nn.functional.pad(layer, (0, widest - layer.shape[1])) for layer in layers], dim=1)
