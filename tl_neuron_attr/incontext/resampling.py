"""Bootstrap means by right label: the prompts of each label are resampled among themselves.

Unlike :mod:`tl_neuron_attr.results.intervals`, whose draws ignore labels, a draw here keeps the number of prompts of
each label, and all measures share their draws, so that the change from one to another has its own interval. Where no
label has two prompts all draws are the same: they are NaN then, as there is no interval.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.results.intervals import LEAST, RESAMPLES, no_interval, percent_change, percentile_interval


class Resampled:
    """Mean values over prompts, over all of them and by right label; the first draw is the prompts themselves.

    Args:
        gold: The index of each prompt's right label.
        labels: The number of labels.
        seed: The seed of the draws.

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
        """Return means over the prompts of one right label, or over all of them."""
        values, labels = values.double().cpu(), range(len(self.of_label)) if gold is None else [gold]
        rows = [self.of_label[label] for label in labels]
        sums = [self.weights[label] @ values[:, mine].T * len(mine) for label, mine in zip(labels, rows, strict=True)]
        found = torch.stack(sums).sum(0) / sum(map(len, rows))
        return without_draws(found) if max(map(len, rows)) < LEAST else found


def without_draws(means: Float[Tensor, "draw condition"]) -> Float[Tensor, "draw condition"]:
    """Return the same with NaN for every draw but the first, the prompts themselves."""
    return torch.cat([means[:1], torch.full_like(means[1:], torch.nan)])


def estimate(draws: Float[Tensor, "draw"], *, level: float = 0.95) -> tuple[float, float, float]:
    """Return the first draw and the percentile interval of the others; NaN if none of them is finite.

    Examples:
        >>> estimate(torch.tensor([1.0, 0.0, 2.0]), level=1.0)
        (1.0, 0.0, 2.0)
    """
    others = draws[1:][draws[1:].isfinite()]
    if not len(others):
        return no_interval(float(draws[0]))
    return percentile_interval(float(draws[0]), others.double().numpy(), level=level)


def percent(before: Float[Tensor, "draw"], after: Float[Tensor, "draw"]) -> Float[Tensor, "draw"]:
    """Return how much is gained or lost, in per cent of what there was."""
    return torch.from_numpy(percent_change(before.double().numpy(), after.double().numpy()))


def _weights(n: int, generator: torch.Generator) -> Float[Tensor, "draw prompt"]:
    """Return the share of each prompt in each draw."""
    if n == 0:
        return torch.zeros(1 + RESAMPLES, 0, dtype=torch.float64)
    drawn = torch.randint(n, (RESAMPLES, n), generator=generator)
    counts = torch.zeros(RESAMPLES, n, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(drawn.shape).double())
    return torch.cat([torch.ones(1, n, dtype=torch.float64), counts]) / n
