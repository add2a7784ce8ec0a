"""The score of every neuron of a sublayer, exactly, without ever holding the [neuron, d_vocab] matrix.

Neurons are read out in chunks, and one chunk ``T = readout(directions)`` serves every prompt of the batch and every
source position: neuron ``n`` of prompt ``b`` contributes ``x = c[b, n, s] * T[n]`` to the logits. A constant added to
all of ``x`` changes nothing, so each row of ``T`` is centred and stretched to reach 1: ``x = y * unit``, with
``|unit| <= 1``. What is left is ``log E_p[exp x]`` over the vocabulary:

* where many coefficients share a chunk and ``|y| <= 1/3``, by the Taylor series, whose coefficients ``E_p[unit**k]``
  are matrix products; as many terms as leave out less than rounding (:func:`terms`);
* where ``|y| <= 10``, by ``log1p((exp(x) - 1) @ p)``, which cannot overflow, and in which an error of the normaliser of
  ``p`` cancels; ``exp(x) - 1`` is off by the rounding of 1 at most, and ``expm1`` would take five times as long;
* elsewhere, and where the expectation itself nearly cancels, by the definition; so too, with ``T`` as it is, where the
  model transforms its logits.
"""

from collections.abc import Iterator
from math import exp, factorial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_neuron_attr.numerics.increase import CANCELLING, MAX_BYTES, SAFE, Increase, rows_within
from tl_neuron_attr.numerics.readout import Readout
from tl_neuron_attr.numerics.sublayer import Sublayer

RADIUS = 1 / 3
"""The largest ``|y|`` the series is used for."""

_BLOCK = 4096
"""Tokens added up in the dtype of scores: BLAS may take as many as there are one after the other, each with its
rounding, which over 262,144 tokens costs 4e-5 nats in float32 on processors without AVX-512."""

SHARED = 8
"""How many coefficients must share a chunk for the series to be worth its products."""

REST = {torch.float32: 1e-8, torch.float64: 1e-17}
"""What the terms left out of the series may add up to, in nats."""

CHUNK_BYTES = 48 * 2**20
"""A chunk's size: large enough for fast products, small beside the model."""


def neuron_scores(
    increase: Increase, sublayer: Sublayer, *, max_bytes: int = MAX_BYTES
) -> Float[Tensor, "batch neuron source"]:
    """Return the log-probability increase of every neuron of ``sublayer`` from every source, in nats.

    Paper 1, Eq. 13, with ``v`` one term of Eq. 5 (MLP) or of Eq. 7 (attention).
    """
    if increase.linear:
        return sublayer.project_onto(increase.direction)
    scorer = _Scorer(increase)
    coefficients = sublayer.scaled_coefficients() * increase.readout.gain[:, None, None]
    scores = torch.zeros_like(coefficients)
    wrote = (coefficients != 0).any(2).any(0)
    for rows, chunk in direction_chunks(increase.readout, sublayer, max_bytes=max_bytes, wanted=wrote):
        scores[:, rows] = scorer.of_chunk(chunk, coefficients[:, rows])
    return scores


def direction_chunks(
    readout: Readout,
    sublayer: Sublayer,
    *,
    max_bytes: int = MAX_BYTES,
    wanted: Bool[Tensor, "neuron"] | None = None,
) -> Iterator[tuple[slice, Float[Tensor, "neuron d_vocab"]]]:
    """Return the directions of ``sublayer`` read out, some at a time: which neurons, and their logits without any gain.

    Chunks of which no neuron is ``wanted`` are left out, such as experts that no token was routed to.

    A chunk lies where the one before it lay: fresh memory for each would cost a fifth of the time.
    """
    step = max(1, min(rows_within(min(max_bytes, 4 * CHUNK_BYTES), readout), sublayer.width))
    memory = torch.empty(step, readout.d_vocab, dtype=readout.dtype, device=readout.W_U.device)
    for start in range(0, sublayer.width, step):
        if wanted is not None and not bool(wanted[start : start + step].any()):
            continue
        directions = sublayer.unscaled_directions(start, start + step)
        yield slice(start, start + step), readout.project(directions, out=memory[: len(directions)])


def terms(radius: float, rest: float) -> int:
    """Return how many terms of the series leave out less than ``rest`` nats where ``|y| <= radius``.

    The remainder of ``exp`` is at most ``r**K e**r / K!``, of an expectation that is at least ``e**-r``.

    Examples:
        >>> terms(1 / 3, 1e-8), terms(0.01, 1e-8)
        (8, 4)
    """
    return next(k for k in range(2, 100) if radius**k * exp(2 * radius) / factorial(k) <= rest)


class _Scorer:
    """Scores of read out directions times coefficients, one row of coefficients per prompt of ``increase``."""

    def __init__(self, increase: Increase) -> None:
        self.increase, self.p = increase, increase.log_p().exp_()
        self._memory = self.p.new_empty(0)

    def of_chunk(
        self, chunk: Float[Tensor, "neuron d_vocab"], coefficients: Float[Tensor, "batch neuron source"]
    ) -> Float[Tensor, "batch neuron source"]:
        """Return the scores of one chunk, which is overwritten."""
        if self.increase.readout.transform is not None:
            scores = torch.zeros_like(coefficients)
            self._by_definition(scores, coefficients != 0, chunk, coefficients)
            return scores
        low, high = chunk.amin(1), chunk.amax(1)  # five times faster than aminmax
        half_range = ((high - low) / 2).clamp_min(torch.finfo(chunk.dtype).tiny)
        unit = chunk.sub_((low + high)[:, None] / 2).div_(half_range[:, None])
        y = coefficients * half_range[:, None]
        scores, todo = torch.zeros_like(y), y != 0
        small, safe = y.abs() <= RADIUS, y.abs() <= SAFE
        if y.shape[0] * y.shape[2] >= SHARED:
            scores = self._by_series(unit, y.where(small, torch.zeros_like(y)))
            todo &= ~small
        cancelling = self._by_exponential(scores, todo & safe, unit, y)
        self._by_definition(scores, (todo & ~safe) | cancelling, unit, y)  # also where y is not a number
        return scores

    def _scratch(self, chunk: Float[Tensor, "neuron d_vocab"]) -> Float[Tensor, "neuron d_vocab"]:
        """Return memory of the size of ``chunk``, the same for each: fresh memory costs more than the work in it."""
        if len(self._memory) < len(chunk):
            self._memory = torch.empty_like(chunk)
        return self._memory[: len(chunk)]

    def _by_series(
        self, unit: Float[Tensor, "neuron d_vocab"], y: Float[Tensor, "batch neuron source"]
    ) -> Float[Tensor, "batch neuron source"]:
        """Return ``x[w] - log1p(sum_k E_p[x**k] / k!)``, ``k`` from 1."""
        order = terms(float(y.abs().max()), REST[unit.dtype])
        expectation, power = torch.zeros_like(y), unit
        for k in range(1, order):
            if k > 1:
                power = torch.mul(unit, power, out=self._scratch(unit))
            expectation += _expected(power, self.p.T).T[:, :, None] * y**k / factorial(k)
        return y * unit[:, self.increase.target].T[:, :, None] - expectation.log1p()

    def _by_exponential(
        self,
        scores: Float[Tensor, "batch neuron source"],
        todo: Bool[Tensor, "batch neuron source"],
        unit: Float[Tensor, "neuron d_vocab"],
        y: Float[Tensor, "batch neuron source"],
    ) -> Bool[Tensor, "batch neuron source"]:
        """Write ``x[w] - log1p((exp(x) - 1) @ p)`` into ``scores`` where ``todo``; return where it nearly cancels."""
        cancelling = torch.zeros_like(todo)
        for row in todo.flatten(1).any(1).nonzero()[:, 0].tolist():
            for pairs in todo[row].nonzero().split(len(unit)):
                neuron, source = pairs.unbind(1)
                size = y[row, neuron, source]
                x = _scaled_rows(unit, neuron, size, self._scratch(unit)[: len(size)])
                expectation = _expected(x.exp_().sub_(1), self.p[row])
                scores[row, neuron, source] = size * unit[neuron, self.increase.target[row]] - expectation.log1p()
                cancelling[row, neuron, source] = expectation < CANCELLING - 1
        return cancelling

    def _by_definition(
        self,
        scores: Float[Tensor, "batch neuron source"],
        todo: Bool[Tensor, "batch neuron source"],
        unit: Float[Tensor, "neuron d_vocab"],
        y: Float[Tensor, "batch neuron source"],
    ) -> None:
        """Write the score by its definition into ``scores`` wherever ``todo``."""
        for pairs in todo.nonzero().split(max(1, len(unit) // 2)):
            row, neuron, source = pairs.unbind(1)
            x = unit[neuron] * y[row, neuron, source][:, None]
            scores[row, neuron, source] = self.increase.of_contributions(x, row)


def _expected(x: Float[Tensor, "neuron d_vocab"], p: Float[Tensor, "d_vocab *batch"]) -> Float[Tensor, "neuron *batch"]:
    """Return ``x @ p``, added up in float64 over blocks of the vocabulary."""
    total = torch.zeros(len(x), *p.shape[1:], dtype=torch.float64, device=x.device)
    for some, their_p in zip(x.split(_BLOCK, dim=1), p.split(_BLOCK), strict=True):
        total += some @ their_p
    return total.to(x.dtype)


def _scaled_rows(
    chunk: Float[Tensor, "neuron d_vocab"],
    neuron: Int[Tensor, "n"],
    size: Float[Tensor, "n"],
    out: Float[Tensor, "n d_vocab"],
) -> Float[Tensor, "n d_vocab"]:
    """Write ``chunk[neuron] * size`` into ``out``; in one pass where the rows follow each other."""
    first, last = int(neuron[0]), int(neuron[-1])
    if last - first + 1 == len(neuron) and bool((neuron.diff() == 1).all()):
        return torch.mul(chunk[first : last + 1], size[:, None], out=out)
    return torch.index_select(chunk, 0, neuron, out=out).mul_(size[:, None])
