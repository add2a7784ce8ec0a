"""The score of every neuron of a sublayer, exactly, without ever holding the [neuron, d_vocab] matrix.

Neurons are read out in tiles, and one tile ``T = readout(directions)`` serves every prompt of the batch and every
source position: neuron ``n`` of prompt ``b`` contributes ``x = c[b, n, s] * T[n]`` to the logits. A constant added to
all of ``x`` changes nothing, so each row of ``T`` is centred and stretched to reach 1: ``x = y * unit``, with
``|unit| <= 1``. What is left is ``log E_p[exp x]`` over the vocabulary:

* where many coefficients share a tile and ``|y| <= 1/3``, by the Taylor series, whose coefficients ``E_p[unit**k]`` are
  matrix products; as many terms as leave out less than rounding (:func:`terms`);
* where ``|y| <= 10``, by ``exp(x) @ p``, which cannot overflow;
* elsewhere by ``log_softmax``; so too, with ``T`` as it is, where the model transforms its logits.
"""

from collections.abc import Iterator
from math import exp, factorial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_neuron_attr.numerics.increase import MAX_BYTES, Increase, rows_within
from tl_neuron_attr.numerics.readout import Readout
from tl_neuron_attr.numerics.sublayer import Sublayer

RADIUS = 1 / 3
"""The largest ``|y|`` the series is used for."""

SHARED = 8
"""How many coefficients must share a tile for the series to be worth its products."""

REST = {torch.float32: 1e-8, torch.float64: 1e-17}
"""What the terms left out of the series may add up to, in nats."""

SAFE = 10.0
"""The largest ``|y|`` for which ``exp(x) @ p`` is used. What it loses are tokens whose ``p`` underflows, below
``e**-87``: at most ``d_vocab e**(20 - 87)`` of the expectation, far below rounding."""

TILE_BYTES = 48 * 2**20
"""A tile's size: large enough for fast products, small beside the model."""


def neuron_scores(
    increase: Increase, sublayer: Sublayer, *, max_bytes: int = MAX_BYTES
) -> Float[Tensor, "batch neuron source"]:
    """The log-probability increase of every neuron of ``sublayer`` from every source, in nats (paper 1, Eq. 13)."""
    if increase.linear:
        return sublayer.project_onto(increase.direction)
    coefficients = sublayer.scaled_coefficients() * increase.readout.gain[:, None, None]
    found = tiles(increase.readout, sublayer, max_bytes=max_bytes)
    return torch.cat([_tile_scores(increase, tile, coefficients[:, rows]) for rows, tile in found], dim=1)


def tiles(
    readout: Readout, sublayer: Sublayer, *, max_bytes: int = MAX_BYTES
) -> Iterator[tuple[slice, Float[Tensor, "neuron d_vocab"]]]:
    """The directions of ``sublayer`` read out, some at a time: which neurons, and their logits without any gain.

    A tile lies where the one before it lay: fresh memory for each would cost a fifth of the time.
    """
    step = min(rows_within(min(max_bytes, 4 * TILE_BYTES), readout), sublayer.width)
    memory = torch.empty(step, readout.d_vocab, dtype=readout.dtype, device=readout.W_U.device)
    for start in range(0, sublayer.width, step):
        directions = sublayer.unscaled_directions(start, start + step)
        yield slice(start, start + step), readout.project(directions, out=memory[: len(directions)])


def terms(radius: float, rest: float) -> int:
    """How many terms of the series leave out less than ``rest`` nats where ``|y| <= radius``.

    The remainder of ``exp`` is at most ``r**K e**r / K!``, of an expectation that is at least ``e**-r``.

    Examples:
        >>> terms(1 / 3, 1e-8), terms(0.01, 1e-8)
        (8, 4)
    """
    return next(k for k in range(2, 100) if radius**k * exp(2 * radius) / factorial(k) <= rest)


def _tile_scores(
    increase: Increase, tile: Float[Tensor, "neuron d_vocab"], coefficients: Float[Tensor, "batch neuron source"]
) -> Float[Tensor, "batch neuron source"]:
    if increase.readout.transform is not None:
        scores = torch.zeros_like(coefficients)
        _by_log_softmax(scores, coefficients != 0, increase, tile, coefficients)
        return scores
    low, high = tile.amin(1), tile.amax(1)  # five times faster than aminmax
    reach = ((high - low) / 2).clamp_min(torch.finfo(tile.dtype).tiny)
    unit = tile.sub_((low + high)[:, None] / 2).div_(reach[:, None])
    y = coefficients * reach[:, None]
    scores, todo = torch.zeros_like(y), y != 0
    small, safe = y.abs() <= RADIUS, y.abs() <= SAFE
    if y.shape[0] * y.shape[2] == 1 and bool(safe.all()):
        return _in_place(increase, unit, y)
    if y.shape[0] * y.shape[2] >= SHARED:
        scores = _by_series(increase, unit, y.where(small, torch.zeros_like(y)))
        todo &= ~small
    _by_exponential(scores, todo & safe, increase, unit, y)
    _by_log_softmax(scores, todo & ~safe, increase, unit, y)  # also where y is not a number
    return scores


def _in_place(
    increase: Increase, unit: Float[Tensor, "neuron d_vocab"], y: Float[Tensor, "1 neuron 1"]
) -> Float[Tensor, "1 neuron 1"]:
    """:func:`_by_exponential` where every direction has a single coefficient: no copy of the tile is needed."""
    wanted = y[0] * unit[:, increase.target]
    expectation = unit.mul_(y[0]).exp_() @ increase.p.T
    return (wanted - expectation.log()).where(y[0] != 0, y[0])[None]


def _by_series(
    increase: Increase, unit: Float[Tensor, "neuron d_vocab"], y: Float[Tensor, "batch neuron source"]
) -> Float[Tensor, "batch neuron source"]:
    """``x[w] - log sum_k E_p[x**k] / k!``."""
    order = terms(float(y.abs().max()), REST[unit.dtype])
    expectation, power = torch.zeros_like(y), unit
    for k in range(1, order):
        if k > 1:
            power = unit * unit if k == 2 else power.mul_(unit)
        expectation += (power @ increase.p.T).T[:, :, None] * y**k / factorial(k)
    return y * unit[:, increase.target].T[:, :, None] - expectation.log1p()


def _by_exponential(
    scores: Float[Tensor, "batch neuron source"],
    todo: Bool[Tensor, "batch neuron source"],
    increase: Increase,
    unit: Float[Tensor, "neuron d_vocab"],
    y: Float[Tensor, "batch neuron source"],
) -> None:
    """``x[w] - log(exp(x) @ p)`` into ``scores`` wherever ``todo``."""
    for row, wanted in enumerate(todo):
        for pairs in wanted.nonzero().split(len(unit)):
            neuron, source = pairs.unbind(1)
            size = y[row, neuron, source]
            expectation = (_rows(unit, neuron) * size[:, None]).exp_() @ increase.p[row]
            scores[row, neuron, source] = size * unit[neuron, increase.target[row]] - expectation.log()


def _by_log_softmax(
    scores: Float[Tensor, "batch neuron source"],
    todo: Bool[Tensor, "batch neuron source"],
    increase: Increase,
    unit: Float[Tensor, "neuron d_vocab"],
    y: Float[Tensor, "batch neuron source"],
) -> None:
    """The score by its definition into ``scores`` wherever ``todo``."""
    for pairs in todo.nonzero().split(len(unit)):
        row, neuron, source = pairs.unbind(1)
        scores[row, neuron, source] = increase.of_contributions(unit[neuron] * y[row, neuron, source][:, None], row)


def _rows(tile: Float[Tensor, "neuron d_vocab"], neuron: Int[Tensor, "n"]) -> Float[Tensor, "n d_vocab"]:
    """``tile[neuron]``, without a copy where that is the whole tile."""
    everything = len(neuron) == len(tile) and bool((neuron.diff() == 1).all())
    return tile if everything else tile[neuron]
