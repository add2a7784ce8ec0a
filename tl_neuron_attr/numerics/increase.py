"""The log-probability increase of anything written into a stream (paper 1, Eq. 13), readout frozen.

    score(v) = log p(w | h + v) - log p(w | h) = x[w] - log E_p[exp x],      x = readout(v),  p = p(. | h)

so a score needs ``v``'s logit contributions ``x`` and the base distribution ``p``, and nothing else. Against a contrast
token ``u`` the expectation cancels and the score is ``x[w] - x[u]``.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.numerics.readout import Readout

MAX_BYTES = 256 * 2**20
"""The default cap on a computation's working set, results not counted."""


@dataclass(frozen=True)
class Increase:
    """Scores of vectors added to one base stream a prompt, in nats.

    Attributes:
        readout: The frozen readout at the position scored.
        base: The stream the scores start from.
        target: The token whose log-probability is followed, one a prompt.
        contrast: If given, scores are of ``log p(target) - log p(contrast)``.
    """

    readout: Readout
    base: Float[Tensor, "batch d_model"]
    target: Int[Tensor, "batch"]
    contrast: Int[Tensor, "batch"] | None = None

    @cached_property
    def logits(self) -> Float[Tensor, "batch d_vocab"]:
        """The base stream's logits, before the model's output transform."""
        return self.readout.logits(self.base)

    @cached_property
    def log_p(self) -> Float[Tensor, "batch d_vocab"]:
        """The base stream's log-probabilities."""
        return self.readout.finish(self.readout.logits(self.base))

    @cached_property
    def p(self) -> Float[Tensor, "batch d_vocab"]:
        """The base stream's distribution."""
        return self.log_p.exp()

    def select(self, rows: Int[Tensor, "n"]) -> "Increase":
        """The given rows, repeated where they are."""
        contrast = None if self.contrast is None else self.contrast[rows]
        return Increase(self.readout.select(rows), self.base[rows], self.target[rows], contrast)

    @property
    def linear(self) -> bool:
        """Whether a score is linear in the vector: a contrast, where the model has no softcap."""
        return self.contrast is not None and self.readout.transform is None

    @cached_property
    def direction(self) -> Float[Tensor, "batch d_model"]:
        """What a linear score is the inner product with: ``readout(target) - readout(contrast)``, pulled back."""
        assert self.contrast is not None
        difference = self.readout.columns(self.target) - self.readout.columns(self.contrast)
        return self.readout.norm.adjoint(difference) * self.readout.gain[:, None]

    def of_contributions(self, x: Float[Tensor, "n d_vocab"], rows: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Scores of logit contributions; contribution ``i`` belongs to prompt ``rows[i]``."""
        if self.readout.transform is not None:
            after = self.readout.finish(self.logits[rows] + x)
            return self._followed(after, rows) - self._followed(self.log_p[rows], rows)
        if self.contrast is not None:
            return self._followed(x, rows)
        return pick(x, self.target[rows]) - (x + self.log_p[rows]).logsumexp(-1)

    def of_vectors(
        self, vectors: Float[Tensor, "batch *n d_model"], *, max_bytes: int = MAX_BYTES
    ) -> Float[Tensor, "batch *n"]:
        """Scores of vectors in the stream."""
        if self.linear:
            return torch.einsum("b...d,bd->b...", vectors, self.direction)
        scaled = vectors * self.readout.gain.reshape(-1, *[1] * (vectors.ndim - 1))
        rows = torch.arange(len(vectors), device=vectors.device).repeat_interleave(
            vectors[0].numel() // vectors.shape[-1]
        )
        step = rows_within(max_bytes, self.readout)
        scores = [
            self.of_contributions(self.readout.project(v), r)
            for v, r in zip(scaled.flatten(0, -2).split(step), rows.split(step), strict=True)
        ]
        return torch.cat(scores).reshape(vectors.shape[:-1])

    def _followed(self, values: Float[Tensor, "n d_vocab"], rows: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
        followed = pick(values, self.target[rows])
        return followed if self.contrast is None else followed - pick(values, self.contrast[rows])


def pick(values: Float[Tensor, "n d_vocab"], tokens: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
    """``values[i, tokens[i]]``."""
    return values.gather(-1, tokens[:, None])[:, 0]


def rows_within(max_bytes: int, readout: Readout) -> int:
    """How many rows of logits fit in ``max_bytes``, with the three temporaries a score needs beside them."""
    return max(1, max_bytes // (4 * readout.d_vocab * readout.dtype.itemsize))
