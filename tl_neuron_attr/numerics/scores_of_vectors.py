"""Scores of any vectors written into base streams (paper 1, Eq. 13), all of a call in one pass over ``W_U``.

The vocabulary is read a chunk at a time, and every vector passes through a chunk before the next is read: ``W_U`` comes
from memory once, not once per layer, and a chunk's contributions stay in the processor's cache.
"""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_neuron_attr.numerics.increase import CANCELLING, MAX_BYTES, SAFE, WIDTH, Increase, log_sum_exp, pick, read_out

_ROWS = 1024
"""The most vectors read out together: more of them make the product no faster."""

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
        return bases.followed(contributing, at)
    read_out(increases)
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
        """``log E_p[exp x]`` in float64 for vectors in the order of their base streams; ``best`` is filled."""
        rows, width = self._chunk(max_bytes)
        found = [
            self._by_expm1(contributing[i : i + rows], at[i : i + rows], width, None if best is None else best[i:])
            for i in range(0, len(at), rows)
        ]
        sums, unsafe = torch.cat([s for s, _ in found]), torch.cat([u for _, u in found])
        again = unsafe.nonzero()[:, 0]
        for part in again.split(rows):
            sums[part] = self._by_logits(contributing[part], at[part], width)
        return sums

    def _by_expm1(
        self,
        contributing: Float[Tensor, "n d_model"],
        at: Int[Tensor, "n"],
        width: int,
        best: Int[Tensor, "rest best"] | None,
    ) -> tuple[Float[Tensor, "n"], Bool[Tensor, "n"]]:
        """``c + log1p(E_p[expm1(x - c)])``, and where that is unsafe; ``c`` is the first chunk's mean."""
        n = len(contributing)
        total = torch.zeros(n, dtype=torch.float64, device=contributing.device)
        furthest, centre = contributing.new_zeros(n), contributing.new_zeros(n)
        running = None if best is None else _Running(n, best.shape[1], contributing)
        for tokens, log_p, change in self._chunks(contributing, at, width):
            if tokens.start == 0:
                centre = change.mean(1)
            if running is not None:
                running.take(change, tokens.start)
            change.sub_(centre[:, None])
            furthest = torch.maximum(furthest, torch.maximum(change.amax(1), -change.amin(1)))
            total += _weighted_sums(change.expm1_(), log_p.exp_(), at)
        if running is not None and best is not None:
            best[:n] = running.tokens
        unsafe = ~((furthest <= SAFE) & (total > CANCELLING - 1))
        return centre.double() + total.log1p(), unsafe

    def _by_logits(
        self, contributing: Float[Tensor, "n d_model"], at: Int[Tensor, "n"], width: int
    ) -> Float[Tensor, "n"]:
        """Return the log of the sum of ``exp(x + log p)``, whatever the size of ``x``."""
        by_chunk = [
            log_sum_exp(change.add_(log_p[at.unique_consecutive(return_inverse=True)[1]]))
            for _, log_p, change in self._chunks(contributing, at, width)
        ]
        return torch.stack(by_chunk).logsumexp(0)

    def _chunks(
        self, contributing: Float[Tensor, "n d_model"], at: Int[Tensor, "n"], width: int
    ) -> Iterator[tuple[slice, Float[Tensor, "batch chunk"], Float[Tensor, "n chunk"]]]:
        """Yield chunks of tokens: their log-probabilities, one row per base in use, and the change of their logits.

        Every chunk lies where the one before it lay: fresh memory for each would cost a fifth of the time.
        """
        used, inverse = at.unique_consecutive(return_inverse=True)
        memory = contributing.new_empty(len(contributing), width)
        first = self.increases[0]
        for tokens, W_U in self.readout.chunks(width):
            logits = torch.cat([each.logits[:, tokens] for each in self.increases])[used]
            log_p = first.transformed(logits) - self._log_normaliser()[used, None].to(logits.dtype)
            change = torch.matmul(contributing, W_U, out=memory[:, : W_U.shape[1]])
            yield tokens, log_p, change if self.readout.transform is None else first.change(change, logits[inverse])

    def _log_normaliser(self) -> Float[Tensor, "batch"]:
        return torch.cat([each.log_normaliser for each in self.increases])

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


class _Running:
    """The largest entries of rows whose columns come a chunk at a time."""

    def __init__(self, n: int, k: int, like: Tensor) -> None:
        self.values = like.new_full((n, k), -torch.inf)
        self.tokens = torch.full((n, k), -1, dtype=torch.long, device=like.device)

    def take(self, chunk: Float[Tensor, "n chunk"], start: int) -> None:
        """Take the columns from ``start`` on."""
        k = self.values.shape[1]
        values, at = chunk.topk(min(k, chunk.shape[1]))
        self.values, kept = torch.cat([self.values, values], dim=1).topk(k)
        self.tokens = torch.cat([self.tokens, at + start], dim=1).gather(1, kept)


def _weighted_sums(
    values: Float[Tensor, "n chunk"], p: Float[Tensor, "batch chunk"], at: Int[Tensor, "n"]
) -> Float[Tensor, "n"]:
    """``values[i] @ p`` of its base, in float64; the rows of one base are next to each other."""
    if len(p) == len(values):
        return values.mul_(p).sum(1, dtype=torch.float64)
    counts = at.unique_consecutive(return_counts=True)[1].tolist()
    return torch.cat([part @ own for part, own in zip(values.split(counts), p, strict=True)]).double()
