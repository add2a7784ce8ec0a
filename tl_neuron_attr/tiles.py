"""The score of every neuron of a sublayer, exactly, without ever holding the [neuron, d_vocab] matrix.

Neurons are read out in tiles, and one tile ``T = readout(directions)`` serves every prompt of the batch and every
source position: neuron ``n`` of prompt ``b`` contributes ``x = c[b, n, s] * T[n]`` to the logits. A constant added to
all of ``x`` changes nothing, so ``T`` is centred. What is left is ``log E_p[exp x]`` over the vocabulary:

* where many coefficients share a tile and ``|x| <= 1/3``, by the Taylor series, whose coefficients ``E_p[T**k]`` are
  matrix products; the part left out is below the rounding of the dtype (:data:`ORDER`);
* where ``|x| <= 10``, by ``exp(x) @ p``, which cannot overflow;
* elsewhere, and where the model transforms its logits, by ``log_softmax``.
"""

from collections.abc import Iterator
from math import factorial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_neuron_attr.increase import MAX_BYTES, Increase, rows_within
from tl_neuron_attr.readout import Readout
from tl_neuron_attr.stream import Sublayer

RADIUS = 1 / 3
"""The largest ``|x|`` the series is used for."""

ORDER = {torch.float32: 8, torch.float64: 14}
"""Terms of the series. With ``|x| <= r`` the rest is at most ``r**K e**r / K!`` of an expectation that is at least
``e**-r``: 8e-9 nats for K = 8 and 5e-18 for K = 14 at r = 1/3."""

SAFE = 10.0
"""The largest ``|x|`` for which ``exp(x) @ p`` is used. What it loses are tokens whose ``p`` underflows, below
``e**-87``: at most ``d_vocab e**(20 - 87)`` of the expectation, far below rounding."""

TILE_BYTES = 24 * 2**20
"""A tile's size: large enough for fast products, small enough that the allocator reuses its memory."""


def neuron_scores(
    increase: Increase, sublayer: Sublayer, *, max_bytes: int = MAX_BYTES
) -> Float[Tensor, "batch neuron source"]:
    """The log-probability increase of every neuron of ``sublayer`` from every source, in nats (paper 1, Eq. 13)."""
    if increase.linear:
        return sublayer.along(increase.direction)
    coefficients = sublayer.scaled_coefficients() * increase.readout.gain[:, None, None]
    found = tiles(increase.readout, sublayer, max_bytes=max_bytes)
    return torch.cat([_tile_scores(increase, tile, coefficients[:, rows]) for rows, tile in found], dim=1)


def tiles(
    readout: Readout, sublayer: Sublayer, *, max_bytes: int = MAX_BYTES
) -> Iterator[tuple[slice, Float[Tensor, "neuron d_vocab"]]]:
    """The directions of ``sublayer`` read out, some at a time: which neurons, and their logits without any gain."""
    step = rows_within(min(max_bytes, 4 * TILE_BYTES), readout)
    for start in range(0, sublayer.width, step):
        yield slice(start, start + step), readout.project(sublayer.shaped(start, start + step))


def _tile_scores(
    increase: Increase, tile: Float[Tensor, "neuron d_vocab"], coefficients: Float[Tensor, "batch neuron source"]
) -> Float[Tensor, "batch neuron source"]:
    scores = torch.zeros_like(coefficients)
    todo = coefficients != 0
    if increase.readout.transform is None:
        low, high = tile.aminmax(dim=1)
        tile -= ((low + high) / 2)[:, None]
        reach = (high - low) / 2
        size = coefficients.abs() * reach[:, None]
        if coefficients.shape[0] * coefficients.shape[2] >= ORDER[tile.dtype]:
            scores = _by_series(increase, tile, coefficients, reach)
            todo &= ~(size <= RADIUS)  # also where it is not a number
        _by_exponential(scores, todo & (size <= SAFE), increase, tile, coefficients)
        todo &= ~(size <= SAFE)
    _by_log_softmax(scores, todo, increase, tile, coefficients)
    return scores


def _by_series(
    increase: Increase,
    tile: Float[Tensor, "neuron d_vocab"],
    coefficients: Float[Tensor, "batch neuron source"],
    reach: Float[Tensor, "neuron"],
) -> Float[Tensor, "batch neuron source"]:
    """``x[w] - log sum_k E_p[x**k] / k!``; right wherever ``|x|`` stays within the radius."""
    unit = tile / reach.clamp_min(torch.finfo(tile.dtype).tiny)[:, None]
    y = (coefficients * reach[:, None]).clamp(-RADIUS, RADIUS)
    expectation = torch.zeros_like(y)
    power = unit.clone()
    for k in range(1, ORDER[tile.dtype]):
        expectation += (power @ increase.p.T).T[:, :, None] * y**k / factorial(k)
        power *= unit
    return y * unit[:, increase.target].T[:, :, None] - expectation.log1p()


def _by_exponential(
    scores: Float[Tensor, "batch neuron source"],
    todo: Bool[Tensor, "batch neuron source"],
    increase: Increase,
    tile: Float[Tensor, "neuron d_vocab"],
    coefficients: Float[Tensor, "batch neuron source"],
) -> None:
    """``x[w] - log(exp(x) @ p)`` into ``scores`` wherever ``todo``."""
    for row, wanted in enumerate(todo):
        for pairs in wanted.nonzero().split(len(tile)):
            neuron, source = pairs.unbind(1)
            c = coefficients[row, neuron, source]
            expectation = (_rows(tile, neuron) * c[:, None]).exp_() @ increase.p[row]
            scores[row, neuron, source] = c * tile[neuron, increase.target[row]] - expectation.log()


def _by_log_softmax(
    scores: Float[Tensor, "batch neuron source"],
    todo: Bool[Tensor, "batch neuron source"],
    increase: Increase,
    tile: Float[Tensor, "neuron d_vocab"],
    coefficients: Float[Tensor, "batch neuron source"],
) -> None:
    """The score by its definition into ``scores`` wherever ``todo``."""
    for pairs in todo.nonzero().split(len(tile)):
        row, neuron, source = pairs.unbind(1)
        x = tile[neuron] * coefficients[row, neuron, source][:, None]
        scores[row, neuron, source] = increase.of_contributions(x, row)


def _rows(tile: Float[Tensor, "neuron d_vocab"], neuron: Int[Tensor, "n"]) -> Float[Tensor, "n d_vocab"]:
    """``tile[neuron]``, without a copy where that is the whole tile."""
    everything = len(neuron) == len(tile) and bool((neuron.diff() == 1).all())
    return tile if everything else tile[neuron]
