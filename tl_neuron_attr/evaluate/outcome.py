"""How well a model predicts the right token."""

from dataclasses import dataclass

import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.numerics.sublayer import score_dtype

METRICS = ("reciprocal_rank", "prob", "log_prob")
"""What is averaged over prompts: the mean of the reciprocal rank is the MRR of paper 1."""


@dataclass(frozen=True)
class Outcome:
    """Of each prompt's target token: its rank in the whole vocabulary, probability and log-probability in nats."""

    rank: Int[Tensor, "batch"]
    prob: Float[Tensor, "batch"]
    log_prob: Float[Tensor, "batch"]

    @classmethod
    def of(cls, logits: Float[Tensor, "batch d_vocab"], target: Int[Tensor, "batch"]) -> "Outcome":
        """Return the outcome of logits at the position scored.

        Examples:
            >>> import torch
            >>> Outcome.of(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([2])).rank
            tensor([2])
        """
        log_probs = logits.to(score_dtype(logits.dtype)).log_softmax(-1)
        chosen = log_probs.gather(1, target[:, None])
        return cls((log_probs > chosen).sum(1) + 1, chosen[:, 0].exp(), chosen[:, 0])

    def frame(self) -> pd.DataFrame:
        """Return one row per prompt: rank, reciprocal rank (its mean is the MRR), prob, log_prob."""
        rank = self.rank.cpu().numpy()
        columns = {"rank": rank, "reciprocal_rank": 1 / rank}
        return pd.DataFrame({**columns, "prob": self.prob.cpu().numpy(), "log_prob": self.log_prob.cpu().numpy()})
