"""Neurons selected among those of a comparison: roots, random ones, some of each case."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.results.plural import plural


def selected(neurons: Neurons, at: Int[Tensor, "case n"]) -> Neurons:
    """Return the neurons at indices ``at`` of each case."""
    return replace(neurons, **{name: getattr(neurons, name).gather(1, at) for name in neurons.columns}, evaluated=None)


def roots(neurons: Neurons) -> Int[Tensor, "case"]:
    """Return the index of each case's root: the neuron of the lowest layer, of several there the highest score."""
    lowest = neurons.layer == neurons.layer.min(1, keepdim=True).values
    return neurons.score.where(lowest, -torch.inf).argmax(1)


def random_neurons(
    coefficient: Float[Tensor, "case layer neuron"],
    allowed: Bool[Tensor, "*allowed"],
    k: int,
    indices: Sequence[int],
    seed: int,
) -> Neurons:
    """Return ``k`` random active MLP neurons of each case out of those allowed; the draw depends on the case only.

    Args:
        coefficient: Those of the MLP neurons of a batch of cases; 0 where a neuron is not active.
        allowed: Which of them may be drawn, of a shape that broadcasts to theirs.
        k: How many.
        indices: The number of each case among all.
        seed: Of the draw.
    """
    active = (coefficient != 0) & allowed
    drawn = [_uniform(active.shape[1:], seed * 1_000_003 + i) for i in indices]
    best = torch.stack(drawn).where(active, -1).flatten(1).topk(k)
    width = active.shape[2]
    return Neurons.of_mlp(
        best.indices // width,
        best.indices % width,
        coefficient=coefficient.flatten(1).gather(1, best.indices),
        score=best.values,
    )


def only_prompt(stream: Stream, neurons: Neurons) -> Neurons:
    """Return the neurons of the only prompt.

    Raises:
        ValueError: If there are several prompts.
    """
    prompts = len(neurons.score) if neurons.batched else 1
    if stream.shape[0] != 1 or prompts != 1:
        raise ValueError(
            f"cache holds {plural(stream.shape[0], 'prompt')} and neurons are of {prompts}; a chain is of one: "
            "cache a single prompt, and take neurons[0]"
        )
    return neurons[0] if neurons.batched else neurons


def _uniform(shape: torch.Size, seed: int) -> Float[Tensor, "layer neuron"]:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))
