"""Bootstrap over prompts of anything made of mean accuracies: the prompts of each right label are drawn anew.

All that is measured on the same prompts is drawn together, so that a change between two of them has its own interval.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.results.intervals import RESAMPLES


class Resampled:
    """Mean values of prompts, in all and by right label: the first draw is the prompts themselves.

    Args:
        gold: The index of each prompt's right label.
        labels: How many labels there are.
        seed: Of the draws.

    Examples:
        >>> sample = Resampled(torch.tensor([0, 0, 1]), 2)
        >>> values = torch.tensor([[0.0, 1.0, 5.0]])
        >>> [float(sample.means(values, gold)[0, 0]) for gold in (None, 0, 1)]
        [2.0, 0.5, 5.0]
    """

    def __init__(self, gold: Int[Tensor, "prompt"], labels: int, *, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.of_label = [(gold == label).nonzero()[:, 0].cpu() for label in range(labels)]
        self.weights = [_weights(len(rows), generator) for rows in self.of_label]

    def means(self, values: Float[Tensor, "condition prompt"], gold: int | None) -> Float[Tensor, "draw condition"]:
        """Means over the prompts of one right label, or over all of them."""
        values = values.double().cpu()
        if gold is not None:
            return self.weights[gold] @ values[:, self.of_label[gold]].T
        sums = [w @ values[:, rows].T * len(rows) for w, rows in zip(self.weights, self.of_label, strict=True)]
        return torch.stack(sums).sum(0) / values.shape[1]


def estimate(draws: Float[Tensor, "draw"], *, level: float = 0.95) -> tuple[float, float, float]:
    """The first draw, and the percentile interval of the others; NaN where nothing is left to compare.

    Examples:
        >>> estimate(torch.tensor([1.0, 0.0, 2.0]), level=1.0)
        (1.0, 0.0, 2.0)
    """
    others = draws[1:][draws[1:].isfinite()]
    if not len(others):
        return float(draws[0]), float("nan"), float("nan")
    low, high = others.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=others.dtype)).tolist()
    return float(draws[0]), low, high


def percent(before: Float[Tensor, "draw"], after: Float[Tensor, "draw"]) -> Float[Tensor, "draw"]:
    """How much is gained or lost, in per cent of what there was."""
    return 100 * (after / before - 1)


def _weights(n: int, generator: torch.Generator) -> Float[Tensor, "draw prompt"]:
    """The share of each prompt in each draw."""
    if n == 0:
        return torch.zeros(1 + RESAMPLES, 0, dtype=torch.float64)
    drawn = torch.randint(n, (RESAMPLES, n), generator=generator)
    counts = torch.zeros(RESAMPLES, n, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(drawn.shape).double())
    return torch.cat([torch.ones(1, n, dtype=torch.float64), counts]) / n
