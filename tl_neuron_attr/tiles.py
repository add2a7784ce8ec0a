"""The score of every neuron of a sublayer, exactly, without ever holding the [neuron, d_vocab] matrix.

Neurons are read out in tiles, and one tile ``T = readout(directions)`` serves every prompt of the batch and every
source position: neuron ``n`` of prompt ``b`` contributes ``x = c[b, n, s] * T[n]`` to the logits. What is left is the
expectation ``E_p[exp x]`` over the vocabulary:

* where many coefficients share a tile and ``|x| <= 1/3``, its Taylor series, whose coefficients ``E_p[T**k]`` are
  matrix products; the part left out is below the rounding of the dtype (:data:`ORDER`);
* elsewhere, the exponential itself.
"""

from math import factorial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_neuron_attr.increase import MAX_BYTES, Increase, rows_within
from tl_neuron_attr.stream import Sublayer

RADIUS = 1 / 3
"""The largest ``|x|`` the series is used for."""

ORDER = {torch.float32: 8, torch.float64: 14}
"""Terms of the series. With ``|x| <= r`` the rest is at most ``r**K e**r / K!`` of an expectation that is at least
``e**-r``: 8e-9 nats for K = 8 and 5e-18 for K = 14 at r = 1/3."""


def neuron_scores(
    increase: Increase, sublayer: Sublayer, *, max_bytes: int = MAX_BYTES
) -> Float[Tensor, "batch neuron source"]:
    """The log-probability increase of every neuron of ``sublayer`` from every source, in nats (paper 1, Eq. 13)."""
    if increase.linear:
        return sublayer.along(increase.direction)
    coefficients = sublayer.scaled_coefficients() * increase.readout.gain[:, None, None]
    step = rows_within(max_bytes, increase.readout)
    tiles = []
    for start in range(0, sublayer.width, step):
        tile = increase.readout.project(sublayer.shaped(start, start + step))
        tiles.append(_tile_scores(increase, tile, coefficients[:, start : start + step]))
    return torch.cat(tiles, dim=1)


def _tile_scores(
    increase: Increase, tile: Float[Tensor, "neuron d_vocab"], coefficients: Float[Tensor, "batch neuron source"]
) -> Float[Tensor, "batch neuron source"]:
    scores = torch.zeros_like(coefficients)
    todo = coefficients != 0
    shared = coefficients.shape[0] * coefficients.shape[2]
    if shared >= ORDER[tile.dtype] and increase.readout.transform is None:
        low, high = tile.aminmax(dim=1)
        todo &= coefficients.abs() * ((high - low) / 2)[:, None] > RADIUS
        scores = _series(increase, tile, coefficients, (low + high) / 2, (high - low) / 2)
    return _fill_exact(scores, todo, increase, tile, coefficients)


def _series(
    increase: Increase,
    tile: Float[Tensor, "neuron d_vocab"],
    coefficients: Float[Tensor, "batch neuron source"],
    middle: Float[Tensor, "neuron"],
    reach: Float[Tensor, "neuron"],
) -> Float[Tensor, "batch neuron source"]:
    """``x[w] - log sum_k E_p[x**k] / k!``; a constant added to all of ``x`` changes nothing, so ``x`` is centred."""
    unit = (tile - middle[:, None]) / reach.clamp_min(torch.finfo(tile.dtype).tiny)[:, None]
    y = (coefficients * reach[:, None]).clamp(-RADIUS, RADIUS)
    p = increase.log_p.exp().T
    expectation = torch.zeros_like(y)
    power = unit.clone()
    for k in range(1, ORDER[tile.dtype]):
        expectation += (power @ p).T[:, :, None] * y**k / factorial(k)
        power *= unit
    return y * unit[:, increase.target].T[:, :, None] - expectation.log1p()


def _fill_exact(
    scores: Float[Tensor, "batch neuron source"],
    todo: Bool[Tensor, "batch neuron source"],
    increase: Increase,
    tile: Float[Tensor, "neuron d_vocab"],
    coefficients: Float[Tensor, "batch neuron source"],
) -> Float[Tensor, "batch neuron source"]:
    """``scores`` with the exact score wherever ``todo``, as many at a time as the tile has rows."""
    pairs: Int[Tensor, "pair 3"] = todo.nonzero()
    for chunk in pairs.split(max(1, len(tile))):
        row, neuron, source = chunk.unbind(1)
        x = tile[neuron] * coefficients[row, neuron, source][:, None]
        scores[row, neuron, source] = increase.of_contributions(x, row)
    return scores
