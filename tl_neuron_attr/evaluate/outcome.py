"""How well a model predicts the right token, or all tokens of the right answer."""

from dataclasses import dataclass

import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.numerics.ranked_tokens import ranks_of
from tl_neuron_attr.numerics.sublayer import score_dtype

METRICS = ("reciprocal_rank", "prob", "log_prob")
"""What is averaged over prompts: the mean of the reciprocal rank is the MRR of paper 1."""


@dataclass(frozen=True)
class Outcome:
    """Of each prompt's target: its rank in the whole vocabulary, probability and log-probability in nats.

    The rank of an answer of several tokens is that of its worst token: at 1 the whole answer is what the model says
    when it takes the likeliest token each time. Its probability is the product of its tokens'.
    """

    rank: Int[Tensor, "batch"]
    prob: Float[Tensor, "batch"]
    log_prob: Float[Tensor, "batch"]

    @classmethod
    def of(cls, logits: Float[Tensor, "batch token d_vocab"], target: Int[Tensor, "batch token"]) -> "Outcome":
        """Return the outcome of the logits that predict each token of the target.

        Examples:
            >>> import torch
            >>> logits = torch.tensor([[[1.0, 3.0, 2.0], [3.0, 1.0, 2.0]]])
            >>> Outcome.of(logits, torch.tensor([[2, 0]])).rank  # the second token, then the first
            tensor([2])
        """
        log_probs = logits.to(score_dtype(logits.dtype)).log_softmax(-1)
        log_prob = log_probs.gather(2, target[..., None])[..., 0].sum(1)
        return cls(ranks_of(log_probs, target).amax(1), log_prob.exp(), log_prob)

    def against(self, contrast: "Outcome") -> "Outcome":
        """Return the target's rank, how many times as likely it is as the contrast, and the log of that."""
        log_prob = self.log_prob - contrast.log_prob
        return Outcome(self.rank, log_prob.exp(), log_prob)

    def frame(self) -> pd.DataFrame:
        """Return one row per prompt: rank, reciprocal rank (its mean is the MRR), prob, log_prob."""
        rank = self.rank.cpu().numpy()
        columns = {"rank": rank, "reciprocal_rank": 1 / rank}
        return pd.DataFrame({**columns, "prob": self.prob.cpu().numpy(), "log_prob": self.log_prob.cpu().numpy()})
