"""Bootstrap means in one pass over any number of prompts: each draw counts each prompt a Poisson number of times.

A bootstrap draws as many prompts as there are, with replacement: each a binomial number of times, which tends to a
Poisson number with mean 1 (Chamandy et al., Estimating Uncertainty for Massive Data Streams, 2012). These numbers are
independent, so that no prompt is needed twice: sums by draw are all that is kept.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from tl_neuron_attr.incontext.resampling import without_draws
from tl_neuron_attr.results.intervals import LEAST, RESAMPLES

_Numbers = NDArray[np.float64]


class PoissonDraws:
    """Mean values over prompts by right label, and over all of them; the first draw is the prompts themselves.

    As :class:`~tl_neuron_attr.incontext.resampling.Resampled` has it, prompts of each label are drawn among themselves.

    Args:
        seed: The seed of the draws. A prompt's numbers depend on it and on the prompt's own number, not on its shard.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self._seed = seed
        self._weights: dict[int, _Numbers] = {}
        self._sums: dict[tuple[str, int], _Numbers] = {}
        self.counts: dict[int, int] = {}

    def add(self, item: int, gold: int, values: Mapping[str, _Numbers]) -> None:
        """Add a prompt's values, each one number per condition."""
        drawn = np.random.default_rng([self._seed, item]).poisson(1.0, RESAMPLES)
        weights = np.concatenate([[1.0], drawn])
        self._weights[gold] = self._weights.get(gold, 0.0) + weights
        self.counts[gold] = self.counts.get(gold, 0) + 1
        for name, value in values.items():
            self._sums[name, gold] = self._sums.get((name, gold), 0.0) + np.outer(weights, value)

    def means(self, name: str, gold: int | None) -> Float[Tensor, "draw condition"]:
        """Return means over the prompts of one right label, or over all of them."""
        counts = self.counts if gold is None else {gold: self.counts[gold]}
        of_labels = [self._of_label(name, label) * count for label, count in sorted(counts.items())]
        found = torch.stack(of_labels).sum(0) / sum(counts.values())
        return without_draws(found) if max(counts.values()) < LEAST else found

    def _of_label(self, name: str, gold: int) -> Float[Tensor, "draw condition"]:
        return torch.from_numpy(self._sums[name, gold]) / torch.from_numpy(self._weights[gold])[:, None]
