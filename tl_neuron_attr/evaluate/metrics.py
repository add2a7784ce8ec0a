"""How well a model says the right token, and how sure a mean over prompts is."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

RESAMPLES = 2000
Sample = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True)
class Outcome:
    """Of each prompt's target token: its rank in the whole vocabulary, probability and log-probability in nats."""

    rank: Int[Tensor, "batch"]
    prob: Float[Tensor, "batch"]
    log_prob: Float[Tensor, "batch"]

    @classmethod
    def of(cls, logits: Float[Tensor, "batch d_vocab"], target: Int[Tensor, "batch"]) -> "Outcome":
        """The outcome of logits at the position scored.

        Examples:
            >>> Outcome.of(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([2])).rank
            tensor([2])
        """
        log_probs = logits.float().log_softmax(-1) if logits.dtype != torch.float64 else logits.log_softmax(-1)
        chosen = log_probs.gather(1, target[:, None])
        return cls((log_probs > chosen).sum(1) + 1, chosen[:, 0].exp(), chosen[:, 0])

    def frame(self) -> pd.DataFrame:
        """A row a prompt: rank, reciprocal rank (its mean is the MRR), prob, log_prob."""
        rank = self.rank.cpu().numpy()
        columns = {"rank": rank, "reciprocal_rank": 1 / rank}
        return pd.DataFrame({**columns, "prob": self.prob.cpu().numpy(), "log_prob": self.log_prob.cpu().numpy()})


def interval(values: pd.Series, *, level: float = 0.95, seed: int = 0) -> tuple[float, float, float]:
    """The mean of values and its bootstrap percentile interval over them; the same seed gives the same interval.

    Examples:
        >>> interval(pd.Series([1.0, 1.0, 1.0]))
        (1.0, 1.0, 1.0)
    """
    sample = values.to_numpy(dtype=float)
    drawn = np.random.default_rng(seed).integers(0, len(sample), (RESAMPLES, len(sample)))
    low, high = np.quantile(sample[drawn].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(sample.mean()), float(low), float(high)


def difference_interval(
    first: Sample, second: Sample, *, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """The difference of two independent samples' means and its bootstrap percentile interval.

    Examples:
        >>> difference_interval(np.array([3.0, 3.0]), np.array([1.0]))
        (2.0, 2.0, 2.0)
    """
    rng = np.random.default_rng(seed)
    means = [s[rng.integers(0, len(s), (RESAMPLES, len(s)))].mean(axis=1) for s in (first, second)]
    low, high = np.quantile(means[0] - means[1], [(1 - level) / 2, (1 + level) / 2])
    return float(first.mean() - second.mean()), float(low), float(high)


def change_interval(before: Sample, after: Sample, *, level: float = 0.95, seed: int = 0) -> tuple[float, float, float]:
    """How much of a mean over prompts is gained or lost, in per cent, and its bootstrap percentile interval.

    Prompts are drawn with both their values. Not finite where the mean before is 0.

    Examples:
        >>> change_interval(np.array([1.0, 3.0]), np.array([2.0, 6.0]))
        (100.0, 100.0, 100.0)
    """
    drawn = np.random.default_rng(seed).integers(0, len(before), (RESAMPLES, len(before)))
    with np.errstate(divide="ignore", invalid="ignore"):
        changes = 100 * (after[drawn].mean(axis=1) / before[drawn].mean(axis=1) - 1)
        low, high = np.quantile(changes, [(1 - level) / 2, (1 + level) / 2])
        return float(100 * (after.mean() / before.mean() - 1)), float(low), float(high)
