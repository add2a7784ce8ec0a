"""What one sublayer read and what its heads, neurons and biases wrote, as tensors.

A block adds its attention's output and then its MLP's to the stream (paper 1, Eq. 1). Attention is a sum over heads
(Eq. 3) and source positions (Eq. 7); an MLP (Eq. 4) is a sum over neurons (Eq. 5), each an activation (Eq. 6) times a
row of ``W_out``.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.numerics.readout import Norm
from tl_neuron_attr.numerics.stacked_rows import StackedRows

Site = Literal["attn", "mlp"]

SITES: tuple[Site, ...] = ("attn", "mlp")
"""The sites in the order of the stream; what the integers of ``Neurons.site`` stand for."""


def score_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype scores are computed in: float64 for a float64 model, float32 for every other."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass(frozen=True)
class Sublayer:
    """One attention or MLP sublayer at the scored position of each prompt.

    ``directions[n] * coefficients[b, n, s]``, through ``post`` and times ``multiplier``, is what neuron ``n`` wrote
    from source ``s``. An MLP neuron has a single source; attention neuron ``h * d_head + j`` is dimension ``j`` of head
    ``h``.

    Attributes:
        site: ``"attn"`` or ``"mlp"``.
        layer: The block.
        base: The stream the scores start from (paper 1, Eq. 13).
        out: What the sublayer wrote in all, biases included.
        bias: The part of ``out`` that no neuron wrote.
        directions: One write direction per neuron: rows of ``W_O`` or ``W_out``, or of all experts' down projections
            one after another, in the model's own dtype.
        coefficients: How far each neuron moved along its direction.
        heads: The number of heads the neurons are divided into; 1 for an MLP.
        post: The norm between the sublayer and the stream, if there is one.
        multiplier: The residual multiplier.
    """

    site: Site
    layer: int
    base: Float[Tensor, "batch d_model"]
    out: Float[Tensor, "batch d_model"]
    bias: Float[Tensor, "batch d_model"]
    directions: Float[Tensor, "neuron d_model"] | StackedRows
    coefficients: Float[Tensor, "batch neuron source"]
    heads: int
    post: Norm | None = None
    multiplier: float = 1.0

    @property
    def gain(self) -> Float[Tensor, "batch"] | float:
        """What the post-norm's scale and the residual multiplier make of a coefficient."""
        return self.multiplier if self.post is None else self.multiplier / self.post.scale

    @property
    def width(self) -> int:
        """The number of neurons, sources not counted."""
        return self.directions.shape[0]

    @property
    def sources(self) -> int:
        """The number of source positions a neuron writes from; 1 for an MLP."""
        return self.coefficients.shape[2]

    def unscaled_directions(self, start: int = 0, stop: int | None = None) -> Float[Tensor, "neuron d_model"]:
        """Return directions ``start:stop`` as they enter the stream, without the prompt's :attr:`gain`."""
        rows = self.directions[start:stop].to(self.base.dtype)
        return rows if self.post is None else self.post.apply_unscaled(rows)

    def scaled_coefficients(self) -> Float[Tensor, "batch neuron source"]:
        """Return coefficients times :attr:`gain`: with :meth:`unscaled_directions`, the neurons' writes."""
        gain = self.gain
        return self.coefficients * (gain[:, None, None] if isinstance(gain, Tensor) else gain)

    def project_onto(self, vectors: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch neuron source"]:
        """Return how much each neuron wrote along one vector per prompt: one matrix-vector product each."""
        before_norm = vectors if self.post is None else self.post.adjoint(vectors)
        return self.scaled_coefficients() * self._products(before_norm)[:, :, None]

    def project_heads_onto(self, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n head source"]:
        """Return how much each head wrote from each source along several vectors, all read at one place."""
        before_norm = vectors if self.post is None else self.post.adjoint(vectors)
        by_neuron = self._products(before_norm).unflatten(1, (self.heads, -1))
        return torch.einsum("nhj,hjs->nhs", by_neuron, self.scaled_coefficients()[0].unflatten(0, (self.heads, -1)))

    def writes(
        self, rows: Int[Tensor, "n"], neuron: Int[Tensor, "n"], source: Int[Tensor, "n"]
    ) -> Float[Tensor, "n d_model"]:
        """Return what single neurons wrote in the prompts ``rows``."""
        vectors = self.directions[neuron].to(self.base.dtype)
        written = vectors if self.post is None else self.post.apply_unscaled(vectors)
        return written * self.scaled_coefficients()[rows, neuron, source][:, None]

    def select(self, rows: Int[Tensor, "n"]) -> "Sublayer":
        """Return the sublayer in the prompts ``rows``."""
        return replace(
            self,
            base=self.base[rows],
            out=self.out[rows],
            bias=self.bias[rows],
            coefficients=self.coefficients[rows],
            post=None if self.post is None else self.post.select(rows),
        )

    def head_writes(self) -> Float[Tensor, "batch head source d_model"]:
        """Return what each head wrote from each source position (paper 1, Eq. 7)."""
        coefficients = self.scaled_coefficients().unflatten(1, (self.heads, -1))
        directions = self.unscaled_directions().unflatten(0, (self.heads, -1))
        return torch.einsum("bhjs,hjd->bhsd", coefficients, directions)

    def _products(self, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n neuron"]:
        """Return inner products with every direction; zero with experts that wrote at none of the places."""
        if isinstance(self.directions, StackedRows):
            return self.directions.products(vectors, (self.coefficients != 0).any(2).any(0))
        return vectors @ self.directions.to(vectors.dtype).T
