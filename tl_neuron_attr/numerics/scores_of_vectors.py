"""Scores of any vectors written into base streams (paper 1, Eq. 13), all of a call in one pass over ``W_U``.

The vocabulary is read a chunk at a time, and every vector passes through a chunk before the next is read: ``W_U`` comes
from memory once, not once per layer, and a chunk's contributions stay in the processor's cache.
"""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_neuron_attr.numerics.increase import (
    CANCELLING,
    MAX_BYTES,
    TOGETHER,
    WIDTH,
    Increase,
    ReadOut,
    log_sum_exp,
    pick,
    read_out,
)
from tl_neuron_attr.numerics.ranked_tokens import HighestSoFar

_ROWS = 1024
"""The most vectors read out together: more of them make the product no faster."""

_SAFE = 50.0
"""The largest ``x - c`` whose exponential is summed as it is: tokens whose ``p`` underflows, below ``e**-87``, lose
less than ``d_vocab * e**(50 - 87)``, and float32 goes up to ``e**88``."""

_NARROWEST = 256
"""Tokens in a chunk at the least, however small ``max_bytes`` is."""


def scores_of_vectors(
    increases: Sequence[Increase],
    vectors: Sequence[Tensor],
    *,
    max_bytes: int = MAX_BYTES,
) -> list[Tensor]:
    """Return scores of ``vectors[i]`` added to the streams of ``increases[i]``, in one pass over ``W_U``, in nats.

    ``vectors[i]`` is ``[batch, *n, d_model]`` and its scores are ``[batch, *n]``; ``n`` may differ between them.
    """
    counts = [len(i.base) * [v[0].numel() // v.shape[-1]] for i, v in zip(increases, vectors, strict=True)]
    per_base = torch.tensor([count for group in counts for count in group], device=increases[0].base.device)
    at = torch.arange(len(per_base), device=per_base.device).repeat_interleave(per_base)
    scores = scores_at(increases, torch.cat([v.flatten(0, -2) for v in vectors]), at, max_bytes=max_bytes)
    own = scores.split([v[..., 0].numel() for v in vectors])
    return [part.reshape(v.shape[:-1]) for part, v in zip(own, vectors, strict=True)]


def scores_at(
    increases: Sequence[Increase],
    vectors: Float[Tensor, "n d_model"],
    at: Int[Tensor, "n"],
    *,
    max_bytes: int = MAX_BYTES,
    promoted: Int[Tensor, "n best"] | None = None,
) -> Float[Tensor, "n"]:
    """Return scores of single vectors (paper 1, Eq. 13): vector ``i`` is added to base stream ``at[i]``, in nats.

    Args:
        increases: The base streams, counted through all of them. They share target, contrast and readout but for the
            norm's scale.
        vectors: The vectors.
        at: The base stream of each.
        max_bytes: A cap on the working set.
        promoted: If given, filled with the tokens whose logits each vector raises most: they come almost free while the
            vectors pass through the vocabulary. Left as it is where a contrast makes that unnecessary.
    """
    if increases[0].linear:
        return (vectors * torch.cat([each.direction for each in increases])[at]).sum(-1)
    bases = _Bases(increases)
    contributing = bases.readout.norm.apply_unscaled(vectors) * bases.gain[at][:, None]
    if increases[0].contrast is not None:
        read_out(increases)
        return bases.followed(contributing, at)
    in_order = at.sort(stable=True)
    best = None if promoted is None else torch.empty_like(promoted)
    sums = bases.log_mean_exp(contributing[in_order.indices], in_order.values, max_bytes, best)
    if promoted is not None and best is not None:
        promoted[in_order.indices] = best
    expected = torch.empty_like(sums).scatter_(0, in_order.indices, sums)
    return (bases.followed(contributing, at).double() - expected).to(vectors.dtype)


class _Bases:
    """Base streams of several increases in a row, a chunk of the vocabulary at a time."""

    def __init__(self, increases: Sequence[Increase]) -> None:
        self.increases, self.readout = increases, increases[0].readout
        self.gain = torch.cat([each.readout.gain for each in increases])

    def followed(self, contributing: Float[Tensor, "n d_model"], at: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Return the change of the target's transformed logit, less that of the contrast's if there is one."""
        change = self._change_of([each.target for each in self.increases], contributing, at)
        if self.increases[0].contrast is None:
            return change
        return change - self._change_of([cast(Tensor, each.contrast) for each in self.increases], contributing, at)

    def log_mean_exp(
        self,
        contributing: Float[Tensor, "n d_model"],
        at: Int[Tensor, "n"],
        max_bytes: int,
        best: Int[Tensor, "n best"] | None,
    ) -> Float[Tensor, "n"]:
        """Return ``log E_p[exp x]`` in float64 for vectors in the order of their base streams; fill ``best``."""
        rows, width = self._chunk(max_bytes)
        found = [
            self._by_exp(contributing[i : i + rows], at[i : i + rows], width, None if best is None else best[i:])
            for i in range(0, len(at), rows)
        ]
        sums, unsafe = torch.cat([s for s, _ in found]), torch.cat([u for _, u in found])
        again = unsafe.nonzero()[:, 0]
        for part in again.split(rows) if len(again) else ():
            sums[part] = self._by_logits(contributing[part], at[part], width)
        return sums

    def _by_exp(
        self,
        contributing: Float[Tensor, "n d_model"],
        at: Int[Tensor, "n"],
        width: int,
        best: Int[Tensor, "rest best"] | None,
    ) -> tuple[Float[Tensor, "n"], Bool[Tensor, "n"]]:
        """Return ``c + log E_p[exp(x - c)]``, and where that is unsafe; ``c`` is the first chunk's mean.

        Base streams that have not been read out pass through the vocabulary with the vectors. The expectation less one,
        which small contributions need, is summed beside it.
        """
        fresh, n, groups = self._new_read_out(), len(contributing), _Groups(at)
        plain, less_one = sums = torch.zeros(2, n, dtype=torch.float64, device=contributing.device)
        largest, centre = contributing.new_full((n,), -torch.inf), contributing.new_zeros(n)
        running = None if best is None else HighestSoFar(n, best.shape[1], contributing)
        for tokens, log_p, change in self._chunks(contributing, groups, width, fresh):
            if tokens.start == 0:
                centre = change.mean(1)
            highest = change.amax(1)
            if running is not None:
                running.take(change, highest, tokens.start)
            largest = torch.maximum(largest, highest)
            if fresh is not None:
                sums.mul_(fresh.rescale[at])
            weights = groups.weights(log_p.exp() if fresh is None else groups.bases_used(fresh.weights))
            exponential = change.sub_(centre[:, None]).exp_()
            plain += _weighted_sums(exponential, weights)
            less_one += _weighted_sums(exponential.sub_(1), weights)
        if fresh is not None:
            fresh.keep()
            sums /= fresh.total[at]
        if running is not None and best is not None:
            best[:n] = running.tokens
        logs = torch.where(less_one > CANCELLING - 1, less_one.log1p(), plain.log())
        return centre.double() + logs, ~(largest - centre <= _SAFE)

    def _by_logits(
        self, contributing: Float[Tensor, "n d_model"], at: Int[Tensor, "n"], width: int
    ) -> Float[Tensor, "n"]:
        """Return the log of the sum of ``exp(x + log p)``, whatever the size of ``x``."""
        groups = _Groups(at)
        by_chunk = [
            log_sum_exp(change.add_(log_p[groups.base]))
            for _, log_p, change in self._chunks(contributing, groups, width, None)
        ]
        return torch.stack(by_chunk).logsumexp(0)

    def _chunks(
        self, contributing: Float[Tensor, "n d_model"], groups: "_Groups", width: int, fresh: ReadOut | None
    ) -> Iterator[tuple[slice, Float[Tensor, "batch chunk"], Float[Tensor, "n chunk"]]]:
        """Yield chunks of tokens: their log-probabilities, one row per base in use, and the change of their logits.

        While base streams are being read out the logits of all of them take the place of log-probabilities. Every chunk
        lies where the one before it lay: fresh memory for each would cost a fifth of the time.
        """
        vectors = contributing if fresh is None else torch.cat([fresh.streams, contributing])
        memory, bases = contributing.new_empty(len(vectors), width), len(vectors) - len(contributing)
        logits, log_p, base = memory, memory, groups.base if fresh is None else groups.at
        for i, (tokens, W_U) in enumerate(self.readout.chunks(width)):
            product = torch.matmul(vectors, W_U, out=memory[:, : W_U.shape[1]])
            here = slice(i % TOGETHER * width, i % TOGETHER * width + W_U.shape[1])
            if fresh is not None:
                fresh.take(tokens, product[:bases])
                logits, here = fresh.logits[:, tokens], slice(None)
                log_p = logits
            elif here.start == 0:
                logits, log_p = self._known(slice(tokens.start, tokens.start + TOGETHER * width), groups)
            change = product[bases:]
            if self.readout.transform is not None:
                change = self.increases[0].change(change, logits[:, here][base])
            yield tokens, log_p[:, here], change

    def _new_read_out(self) -> ReadOut | None:
        """Return what the base streams are read out with beside the vectors; None if some have been read out."""
        if all("logits" not in each.known for each in self.increases):
            return ReadOut(self.increases)
        read_out(self.increases)
        return None

    def _known(self, tokens: slice, groups: "_Groups") -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n"]]:
        """Return logits and log-probabilities of the base streams in use."""
        logits = groups.bases_used(torch.cat([each.logits[:, tokens] for each in self.increases]))
        normaliser = groups.bases_used(torch.cat([each.log_normaliser for each in self.increases]))
        return logits, self.increases[0].transformed(logits) - normaliser[:, None].to(logits.dtype)

    def _change_of(
        self, tokens: list[Int[Tensor, "batch"]], contributing: Float[Tensor, "n d_model"], at: Int[Tensor, "n"]
    ) -> Float[Tensor, "n"]:
        """Return by how much vectors change the transformed logit of one token per base."""
        own = torch.cat(tokens)
        x = (contributing * self.readout.columns(own)[at]).sum(-1)
        if self.readout.transform is None:
            return x
        logits = torch.cat([pick(each.logits, t) for each, t in zip(self.increases, tokens, strict=True)])[at]
        return self.increases[0].change(x[:, None], logits[:, None])[:, 0]

    def _chunk(self, max_bytes: int) -> tuple[int, int]:
        """Return how many vectors and tokens to read out at a time, with three temporaries of their size."""
        fitting = max(1, max_bytes // (4 * self.readout.dtype.itemsize))
        rows = max(1, min(_ROWS, fitting // WIDTH))
        return rows, max(1, min(WIDTH, self.readout.d_vocab, max(_NARROWEST, fitting // rows)))


class _Groups:
    """Vectors in the order of their base streams, those of one base next to each other.

    Attributes:
        at: The base stream of each vector.
        used: The base streams that have vectors.
        base: The place of each vector's base among those.
    """

    def __init__(self, at: Int[Tensor, "n"]) -> None:
        self.at = at
        self.used, self.base = at.unique_consecutive(return_inverse=True)
        self._every = torch.equal(self.used, torch.arange(len(self.used), device=at.device))
        of_each = len(at) // max(1, len(self.used))
        self._alike = torch.equal(self.base, torch.arange(len(at), device=at.device) // max(1, of_each))

    def bases_used(self, values: Float[Tensor, "n *m"]) -> Float[Tensor, "batch *m"]:
        """Return the rows of the bases in use, without a copy where these are all."""
        return values if self._every and len(values) == len(self.used) else values[self.used]

    def weights(self, p: Float[Tensor, "batch chunk"]) -> Float[Tensor, "group 1 chunk"]:
        """Return each base's probabilities once, where all have as many vectors; else once for each vector."""
        return (p if self._alike else p[self.base])[:, None]


def _weighted_sums(values: Float[Tensor, "n chunk"], weights: Float[Tensor, "group 1 chunk"]) -> Float[Tensor, "n"]:
    """Return the sums of ``values`` times the weights of their groups, in float64.

    The weights multiply from the left: the same product with them on the right takes three times as long.
    """
    grouped = values.unflatten(0, (len(weights), -1))
    return torch.bmm(weights, grouped.transpose(1, 2)).flatten().double()
