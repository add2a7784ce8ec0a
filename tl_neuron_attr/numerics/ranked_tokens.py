"""Which tokens vectors promote most and least, and where one token stands among all, in one pass over ``W_U``.

No vector's logits are held: the vocabulary is read a chunk at a time, whose logits stay in the processor's cache.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.numerics.readout import Readout

_CHUNK = 2**18
"""Logits held at a time, 1 MiB of float32: they stay in a processor core's cache."""

_NARROWEST = 1024
"""Tokens in a chunk at the least: of fewer, the products would be slower."""


@dataclass(frozen=True)
class RankedTokens:
    """The ends of each vector's ranking of all tokens.

    Attributes:
        highest: The tokens of the highest logits, the highest first.
        lowest: The tokens of the lowest logits, the lowest first.
        rank: The followed token's place, 1 for the highest; a token as high as it does not count.
        logit: Its logit, but for the final norm's scale.
    """

    highest: Int[Tensor, "n k"]
    lowest: Int[Tensor, "n k"]
    rank: Int[Tensor, "n"]
    logit: Float[Tensor, "n"]


@torch.no_grad()
def ranked_tokens(
    readout: Readout, vectors: Float[Tensor, "n d_model"], k: int, token: int | Int[Tensor, "n"]
) -> RankedTokens:
    """Rank the vocabulary by the logits of vectors, up to the final norm's scale, which changes no order.

    Args:
        readout: The readout.
        vectors: The vectors.
        k: How many tokens of each end.
        token: The token followed, one for all vectors or one each.

    Examples:
        >>> from tl_neuron_attr.numerics.readout import Norm
        >>> norm = Norm(torch.ones(2), torch.ones(1), centred=False)
        >>> W_U = torch.tensor([[3.0, 1.0, 2.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
        >>> readout = Readout(W_U, norm, torch.zeros(2), torch.zeros(4))
        >>> found = ranked_tokens(readout, torch.tensor([[1.0, 0.0]]), 2, token=1)
        >>> found.highest.tolist(), found.lowest.tolist(), found.rank.tolist()
        ([[0, 2]], [[3, 1]], [3])
    """
    contributing, k = readout.norm.apply_unscaled(vectors), min(k, readout.d_vocab)
    own = torch.as_tensor(token, device=vectors.device).expand(len(vectors))
    followed = (contributing * readout.columns(own)).sum(1)
    highest, lowest = (HighestSoFar(len(vectors), k, contributing) for _ in range(2))
    above = contributing.new_zeros(len(vectors))
    width = min(max(_NARROWEST, _CHUNK // max(1, len(vectors))), readout.d_vocab)
    memory = contributing.new_empty(2, len(vectors), width)
    for tokens, W_U in readout.chunks(width):
        logits, other = memory[:, :, : W_U.shape[1]]
        torch.matmul(contributing, W_U, out=logits)
        highest.take(logits, logits.amax(1), tokens.start)
        torch.gt(logits, followed[:, None], out=other)
        here = ((own >= tokens.start) & (own < tokens.stop)).nonzero()[:, 0]
        other[here, own[here] - tokens.start] = 0  # its logit here may differ from ``followed`` by rounding
        above += other.sum(1)
        torch.neg(logits, out=other)
        lowest.take(other, other.amax(1), tokens.start)
    return RankedTokens(highest.tokens, lowest.tokens, above.long() + 1, followed)


def ranks_of(values: Float[Tensor, "*n d_vocab"], token: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Return each token's place by its value among all, 1 for the highest; a token as high as it does not count.

    Examples:
        >>> ranks_of(torch.tensor([[0.5, 2.0, 1.0]]), torch.tensor([2]))
        tensor([2])
    """
    return (values > values.gather(-1, token[..., None])).sum(-1) + 1


@torch.no_grad()
def ranked_embeddings(
    W_E: Float[Tensor, "d_vocab d_model"], keys: Float[Tensor, "n d_model"], k: int, *, centred: bool | None
) -> tuple[Int[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Return the ``k`` tokens whose embedding, alone in the stream, a key fits most, and the ``k`` it fits least.

    Args:
        W_E: The embeddings.
        keys: Keys behind the norm in front of the neurons, its scale left out.
        k: How many tokens of each end.
        centred: Whether that norm subtracts the mean; None where there is no norm, so that long embeddings fit more.

    Examples:
        >>> W_E = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, -9.0]])
        >>> most, least = ranked_embeddings(W_E, torch.tensor([[1.0, 0.0]]), 1, centred=False)
        >>> most.tolist(), least.tolist()  # 3/5, 1 and 0: the norm makes all of one length
        ([[1]], [[2]])
    """
    k = min(k, len(W_E))
    highest, lowest = (HighestSoFar(len(keys), k, keys) for _ in range(2))
    width = max(_NARROWEST, _CHUNK // max(1, len(keys)))
    for start in range(0, len(W_E), width):
        rows = W_E[start : start + width].to(keys)
        fits = keys @ rows.T
        if centred is not None:
            length = (rows - rows.mean(1, keepdim=True) if centred else rows).norm(dim=1)
            fits /= length.clamp_min(torch.finfo(length.dtype).tiny)  # a token without an embedding fits nothing
        for found, values in ((highest, fits), (lowest, -fits)):
            found.take(values, values.amax(1), start)
    return highest.tokens, lowest.tokens


class HighestSoFar:
    """The highest entries of rows whose columns come a chunk at a time.

    Attributes:
        values: The highest of each row, the highest first.
        tokens: Their columns.
    """

    def __init__(self, n: int, k: int, like: Tensor) -> None:
        self.values = like.new_full((n, k), -torch.inf)
        self.tokens = torch.full((n, k), -1, dtype=torch.long, device=like.device)

    def take(self, chunk: Float[Tensor, "n chunk"], highest: Float[Tensor, "n"], start: int) -> None:
        """Take the columns from ``start`` on, and the highest of each row: most chunks have nothing to add to most."""
        better = (highest > self.values[:, -1]).nonzero()[:, 0]
        if len(better) == 0:
            return
        k = self.values.shape[1]
        values, at = chunk[better].topk(min(k, chunk.shape[1]))
        self.values[better], kept = torch.cat([self.values[better], values], dim=1).topk(k)
        self.tokens[better] = torch.cat([self.tokens[better], at + start], dim=1).gather(1, kept)
