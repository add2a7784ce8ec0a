"""How far single neurons' scores can lie below Jensen's bound: narrower bounds of ``psi``, for a few thousand neurons.

The bounds of ``bounds.py`` know one variance for all directions. Here the likeliest tokens are summed exactly, and only
what the others add is bounded. With ``y = x - E_p[x]`` a neuron's centred logit contributions, ``y <= M``, and
``phi = (e**M - 1 - M) / M**2``, so that ``e**y <= 1 + y + phi * y**2`` (Bennett),

    psi = log E_p[e**y] <= log(1 + sum over the likeliest of p * (e**y - 1 - y) + phi * sum over the others of p * y**2)

No other token is likelier than ``p_next``, so the last sum is at most ``p_next`` times the sum of ``y**2`` over the
whole vocabulary: a quadratic form in what the neuron wrote, whose matrix depends on ``W_U`` alone.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.numerics.bounds import bennett_factor, ranges
from tl_neuron_attr.numerics.flat_index import locate
from tl_neuron_attr.numerics.increase import WIDTH, Increase
from tl_neuron_attr.numerics.sublayer import Sublayer
from tl_neuron_attr.numerics.vocabulary_scatter import vocabulary_scatter

SHARE = 64
"""One of so many tokens is summed exactly, so that a bound costs a small part of an exact score."""

_FEW = 8
"""Neurons of a sublayer that are as soon scored as its likeliest tokens are fetched; they are left out."""

_TOGETHER = 512
"""Neurons bounded together: 8 MiB of products."""


class NarrowBounds:
    """Narrower bounds of ``psi`` for chosen neurons.

    Args:
        increases: For each sublayer, scores of what is added to the stream it read.
        sublayers: The sublayers.
    """

    def __init__(self, increases: Sequence[Increase], sublayers: Sequence[Sublayer]) -> None:
        self._increases, self._sublayers = increases, sublayers

    @property
    def pays(self) -> int:
        """Neurons beyond which bounding all costs less than scoring all.

        The matrix of the quadratic form takes as many multiplications as reading out one vector per dimension.
        """
        return self._increases[0].base.shape[1]

    def psi(self, row: int, flat: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Return upper bounds of ``psi`` in nats, in one prompt, of neurons numbered through the sublayers.

        Infinity for those of a sublayer that has so few of them that bounds would not pay.
        """
        where, neuron, source = locate(self._sublayers, flat)
        found = self._increases[0].base.new_full((len(flat),), torch.inf)
        numbers, counts = where.unique(return_counts=True)
        for number in numbers[counts >= _FEW].tolist():
            increase, sublayer = self._increases[number], self._sublayers[number]
            likeliest = _Likeliest(increase, row)
            for mine in (where == number).nonzero()[:, 0].split(_TOGETHER):
                written = sublayer.writes(torch.full_like(mine, row), neuron[mine], source[mine])
                vectors = increase.readout.norm.apply_unscaled(written) * increase.readout.gain[row]
                found[mine] = self._bound(likeliest, vectors)
        return found

    @cached_property
    def _scatter_matrix(self) -> tuple[Float[Tensor, "d_model"], Float[Tensor, "d_model d_model"]]:
        return vocabulary_scatter(self._increases[0].readout)

    def _bound(self, base: "_Likeliest", vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n"]:
        y = vectors @ base.centred
        exact = (y.expm1() - y) @ base.p
        furthest = vectors.norm(dim=1) * base.furthest
        others = base.p_next * self._sums_of_squares(vectors, base.mean)
        psi = (exact + bennett_factor(furthest) * others).log1p()
        return psi.nan_to_num(nan=torch.inf)  # of a sum that overflows

    def _sums_of_squares(
        self, vectors: Float[Tensor, "n d_model"], mean: Float[Tensor, "d_model"]
    ) -> Float[Tensor, "n"]:
        """Return ``sum of (x - <v, mean>)**2`` over the vocabulary, plus what rounding may have taken from it."""
        centre, scatter = self._scatter_matrix
        form = ((vectors @ scatter) * vectors).sum(1)
        shift = (vectors @ (centre - mean)).square() * self._increases[0].readout.d_vocab
        rounding = WIDTH * torch.finfo(vectors.dtype).eps * scatter.trace() * vectors.square().sum(1)
        return form + shift + rounding


class _Likeliest:
    """The likeliest tokens of one base stream.

    Attributes:
        mean: The mean unembedding vector under the base distribution.
        centred: The likeliest tokens' unembedding vectors, less that mean.
        p: Their probabilities.
        p_next: The probability that no other token's exceeds; 0 where there is no other.
        furthest: The largest distance of any token's vector from the mean.
    """

    def __init__(self, increase: Increase, row: int) -> None:
        p = increase.log_p()[row].exp()
        likeliest = p.topk(-(-len(p) // SHARE))
        self.mean, self.p = increase.mean[row], likeliest.values
        self.p_next = self.p[-1] if len(self.p) < len(p) else self.p.new_zeros(())
        self.centred = increase.readout.columns(likeliest.indices).T - self.mean[:, None]
        self.furthest = ranges([increase])[0][0][row] / increase.readout.gain[row].abs()
