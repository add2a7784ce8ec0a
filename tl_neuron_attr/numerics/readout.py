"""From residual vectors to logits, with the final norm's scale frozen (paper 1, section 3 and the authors' code).

A norm with a frozen scale is linear, so logit contributions add up: the readout of a sum is the sum of the readouts,
and the contributions of everything written into the stream, plus the biases, are the model's own logits.

The paper calls a logit contribution a before-softmax value, ``bs``: Eq. 9 defines it as ``e_w . x``, Eq. 10 and Eq. 11
turn the values of ``x`` and of ``x + v`` into probabilities, Eq. 12 says that the values add up. The final stream read
out is the model's prediction (Eq. 2).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Norm:
    """LayerNorm or RMSNorm with its scale frozen: ``v -> centre(v) * weight / scale``, bias left out.

    The scale differs from prompt to prompt and the rest does not, so the two are kept apart: a batch shares
    :meth:`apply_unscaled`, each prompt has its own ``scale``.

    Attributes:
        weight: The effective weight (``1 + w`` for the Gemma family).
        scale: The cached ``hook_scale`` at the position scored.
        centred: Whether the mean is subtracted (LayerNorm) or not (RMSNorm).
    """

    weight: Float[Tensor, "d_model"]
    scale: Float[Tensor, "batch"]
    centred: bool

    def apply_unscaled(self, vectors: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """Return the norm without its scale, which every prompt shares: ``centre(v) * weight``."""
        return self._centre(vectors) * self.weight

    def adjoint(self, directions: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """Return the transpose of :meth:`apply_unscaled`: ``<adjoint(u), v> == <u, apply_unscaled(v)>``."""
        return self._centre(directions * self.weight)

    def __call__(self, vectors: Float[Tensor, "batch *n d_model"]) -> Float[Tensor, "batch *n d_model"]:
        """Apply the whole norm, row ``b`` divided by the scale of prompt ``b``."""
        return self.apply_unscaled(vectors) / self.scale.reshape(-1, *[1] * (vectors.ndim - 1))

    def then(self, following: "Norm") -> "Norm":
        """Return one norm that does what this one and an RMSNorm behind it do."""
        return Norm(self.weight * following.weight, self.scale * following.scale, self.centred)

    def select(self, rows: Int[Tensor, "n"]) -> "Norm":
        """Return the norm of the given prompts."""
        return replace(self, scale=self.scale[rows])

    def _centre(self, vectors: Tensor) -> Tensor:
        return vectors - vectors.mean(-1, keepdim=True) if self.centred else vectors


@dataclass(frozen=True)
class Readout:
    """Residual vectors to logits at one position of each prompt.

    The norm is applied to vectors and never folded into ``W_U``: that copy would cost more than most searches.

    Attributes:
        W_U: The unembedding, in the model's own dtype.
        norm: The final norm.
        norm_bias: The final norm's bias; with ``b_U`` added once to a stream, never by a contribution.
        b_U: The unembedding's bias.
        multiplier: A constant every logit is multiplied with (Granite, Cohere); 1 elsewhere.
        transform: What the model does to its logits where that is not linear (Gemma-2's softcap), else None.
        kept: What is known of ``W_U`` alone; shared by all readouts of a model.
    """

    W_U: Float[Tensor, "d_model d_vocab"]
    norm: Norm
    norm_bias: Float[Tensor, "d_model"]
    b_U: Float[Tensor, "d_vocab"]
    multiplier: float = 1.0
    transform: Transform | None = None
    kept: dict[str, Tensor] = field(default_factory=dict[str, Tensor], repr=False, compare=False)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype scores are computed in: float32, or float64 for a float64 model."""
        return self.norm.weight.dtype

    @property
    def d_vocab(self) -> int:
        """The size of the vocabulary."""
        return self.W_U.shape[1]

    @property
    def gain(self) -> Float[Tensor, "batch"]:
        """What turns a shared projection into the logits of prompt ``b``: ``multiplier / scale``."""
        return self.multiplier / self.norm.scale

    def unembed(
        self, vectors: Float[Tensor, "*n d_model"], *, out: Float[Tensor, "*n d_vocab"] | None = None
    ) -> Float[Tensor, "*n d_vocab"]:
        """Return ``vectors @ W_U``, in :attr:`dtype`, into ``out`` if it is given; no norm."""
        if self.W_U.dtype == self.dtype:
            return torch.matmul(vectors, self.W_U, out=out)
        return torch.cat([vectors @ part.to(self.dtype) for part in self.W_U.split(_COLUMNS, dim=1)], -1, out=out)

    def project(
        self, vectors: Float[Tensor, "*n d_model"], *, out: Float[Tensor, "*n d_vocab"] | None = None
    ) -> Float[Tensor, "*n d_vocab"]:
        """Return logit contributions before the prompt's :attr:`gain`; one projection serves a whole batch."""
        return self.unembed(self.norm.apply_unscaled(vectors), out=out)

    def chunks(self, width: int) -> Iterator[tuple[slice, Float[Tensor, "d_model chunk"]]]:
        """Return the unembedding ``width`` tokens at a time, in :attr:`dtype`, with the tokens' slice."""
        for start in range(0, self.d_vocab, width):
            tokens = slice(start, min(start + width, self.d_vocab))
            yield tokens, self.W_U[:, tokens].to(self.dtype)

    def without_biases(self) -> "Readout":
        """Return the readout of contributions alone: zeros read out to zeros."""
        return replace(self, norm_bias=torch.zeros_like(self.norm_bias), b_U=torch.zeros_like(self.b_U))

    def select(self, rows: Int[Tensor, "n"]) -> "Readout":
        """Return the readout of the given prompts."""
        return replace(self, norm=self.norm.select(rows))

    def columns(self, tokens: Tensor) -> Float[Tensor, "batch d_model"]:
        """Return the unembedding vectors of ``tokens``, one per prompt: rows of the transpose, in one piece if tied."""
        return self.W_U.T[tokens].to(self.dtype)

    def contributions(self, vectors: Float[Tensor, "batch *n d_model"]) -> Float[Tensor, "batch *n d_vocab"]:
        """Return logit contributions of ``vectors``, linear in them (paper 1, Eq. 9 and Eq. 12)."""
        return self.project(vectors * self.gain.reshape(-1, *[1] * (vectors.ndim - 1)))

    def logits(self, resid: Float[Tensor, "batch *n d_model"]) -> Float[Tensor, "batch *n d_vocab"]:
        """Return the logits of whole residual streams, before :meth:`finish`."""
        normed = self.norm(resid) + self.norm_bias
        return self.unembed(normed * self.multiplier).add_(self.b_U * self.multiplier)

    def finish(self, logits: Float[Tensor, "*n d_vocab"]) -> Float[Tensor, "*n d_vocab"]:
        """Return log-probabilities of logits (paper 1, Eq. 2): the model's transform, if any, then ``log_softmax``."""
        return (logits if self.transform is None else self.transform(logits)).log_softmax(-1)


_COLUMNS = 8192  # of W_U cast at a time for half-precision models: 8192 x d_model, not the whole of it
