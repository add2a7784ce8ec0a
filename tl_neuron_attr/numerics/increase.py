"""The log-probability increase of anything written into a stream (paper 1, Eq. 13), readout frozen.

    score(v) = log p(w | h + v) - log p(w | h) = x[w] - log E_p[exp x],      x = readout(v),  p = p(. | h)

so a score needs the logit contributions ``x`` of ``v`` and the base distribution ``p`` (Eq. 2, 10 and 12), and nothing
else. Against a contrast token ``u`` the expectation cancels and the score is ``x[w] - x[u]``.

``log E_p[exp x]`` is found as ``c + log1p(E_p[expm1(x - c)])`` for a constant ``c``, summed in float64: a difference of
two separately rounded normalisers would shift all scores of a layer by up to 1e-4 nats where the vocabulary is large.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.numerics.readout import Readout

MAX_BYTES = 256 * 2**20
"""The default cap on a computation's working set, results not counted."""

SAFE = 10.0
"""The largest ``|x - c|`` for which ``expm1`` is used. Beyond it, float32 could overflow, and a token whose ``p``
underflows (below ``e**-87``) could matter; below it, such tokens lose less than ``d_vocab * e**(10 - 87)``."""

CANCELLING = 0.1
"""Where ``E_p[exp(x - c)]`` is below this, its rounding error, some 1e-7, would be felt: such rows are summed again."""

WIDTH = 2048
"""Tokens in a chunk of the vocabulary, whose products mostly stay in a processor core's cache. Of half as many, what a
chunk costs beside its product is a sixth of the whole; of twice as many, several hundred vectors take longer."""

TOGETHER = 8
"""Chunks whose log-probabilities are put together at a time: there may be a stream for every sublayer to fetch."""


@dataclass(eq=False)
class Increase:
    """Scores of vectors added to one base stream per prompt, in nats.

    What is known of the base streams, their logits above all, is kept once :func:`read_out` has found it.

    Attributes:
        readout: The frozen readout at the position scored.
        base: The stream the scores start from.
        target: The token whose log-probability is followed, one per prompt.
        contrast: If given, scores are of ``log p(target) - log p(contrast)``.
        known: What has been read out of the base streams, by name.
    """

    readout: Readout
    base: Float[Tensor, "batch d_model"]
    target: Int[Tensor, "batch"]
    contrast: Int[Tensor, "batch"] | None = None
    known: dict[str, Tensor] = field(default_factory=dict[str, Tensor], repr=False)

    @property
    def logits(self) -> Float[Tensor, "batch d_vocab"]:
        """The base stream's logits, before the model's output transform."""
        if "logits" not in self.known:
            read_out([self])
        return self.known["logits"]

    @property
    def log_normaliser(self) -> Float[Tensor, "batch"]:
        """The log of the sum of the exponentials of the transformed logits, in float64."""
        if "log_normaliser" not in self.known:
            read_out([self])
        return self.known["log_normaliser"]

    @property
    def mean(self) -> Float[Tensor, "batch d_model"]:
        """The base distribution's mean unembedding vector, ``E_p[W_U]``, before the norm."""
        mean_unembeddings([self])
        return self.known["mean"]

    def log_p(self, tokens: slice = slice(None)) -> Float[Tensor, "batch n"]:
        """Return the base stream's log-probabilities (paper 1, Eq. 2), of some tokens."""
        return self.transformed(self.logits[:, tokens]) - self.log_normaliser[:, None].to(self.base.dtype)

    def target_log_p(self) -> Float[Tensor, "batch"]:
        """Return the target's log-probability in the base stream, in float64."""
        return self.transformed(pick(self.logits, self.target)[:, None])[:, 0].double() - self.log_normaliser

    def select(self, rows: Int[Tensor, "n"]) -> "Increase":
        """Return the given prompts, repeated where they are, with all that is known about them."""
        contrast = None if self.contrast is None else self.contrast[rows]
        known = {name: value[rows] for name, value in self.known.items()}
        return Increase(self.readout.select(rows), self.base[rows], self.target[rows], contrast, known)

    @property
    def linear(self) -> bool:
        """Whether a score is linear in the vector: a contrast, where the model has no softcap."""
        return self.contrast is not None and self.readout.transform is None

    @property
    def direction(self) -> Float[Tensor, "batch d_model"]:
        """What a linear score is the inner product with: ``readout(target) - readout(contrast)`` as a direction."""
        assert self.contrast is not None
        difference = self.readout.columns(self.target) - self.readout.columns(self.contrast)
        return self.readout.norm.adjoint(difference) * self.readout.gain[:, None]

    def of_contributions(self, x: Float[Tensor, "n d_vocab"], rows: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Return scores of logit contributions of any size; contribution ``i`` belongs to prompt ``rows[i]``."""
        change = self.change(x, self.logits[rows])
        followed = pick(change, self.target[rows])
        if self.contrast is not None:
            return followed - pick(change, self.contrast[rows])
        return (followed.double() - log_sum_exp(change.add_(self.log_p()[rows]))).to(x.dtype)

    def transformed(self, logits: Float[Tensor, "n d_vocab"]) -> Float[Tensor, "n d_vocab"]:
        """Return logits as the model transforms them; as they are where it does not."""
        return logits if self.readout.transform is None else self.readout.transform(logits)

    def change(self, x: Float[Tensor, "n d_vocab"], logits: Float[Tensor, "n d_vocab"]) -> Float[Tensor, "n d_vocab"]:
        """Return what contributions ``x`` change of the transformed logits: ``x`` where there is no transform."""
        transform = self.readout.transform
        return x if transform is None else transform(logits + x) - transform(logits)


class ReadOut:
    """Base streams that are being read out, a chunk of the vocabulary at a time (paper 1, Eq. 2).

    Their distributions are needed before the whole vocabulary was seen, so a chunk's weights are
    ``exp(logit - highest)`` for the highest logit so far. Sums over earlier chunks are multiplied by ``rescale`` when
    that has risen, and divided by ``total`` in the end.

    Attributes:
        streams: What is multiplied with ``W_U``, one row per base stream.
        logits: Their logits, of the chunks taken; of the last one only, where they are not kept.
        weights: The weights of the last chunk taken.
        rescale: What the sums over the chunks before it are multiplied by.
        total: The sum of all weights, in float64.
    """

    def __init__(self, increases: Sequence[Increase], *, keep: bool = True) -> None:
        self._keep = keep
        self._increases, readout = increases, increases[0].readout
        self.streams = torch.cat([(i.readout.norm(i.base) + readout.norm_bias) * readout.multiplier for i in increases])
        self.logits = self.streams.new_empty(len(self.streams), readout.d_vocab if keep else WIDTH)
        self.total = torch.zeros(len(self.streams), dtype=torch.float64, device=self.streams.device)
        self._highest = self.streams.new_full((len(self.streams),), torch.finfo(self.streams.dtype).min)

    def take(self, tokens: slice, product: Float[Tensor, "batch chunk"]) -> Float[Tensor, "batch chunk"]:
        """Take a chunk: its tokens, and the product of :attr:`streams` with them; return its transformed logits."""
        readout = self._increases[0].readout
        logits = self.logits[:, tokens if self._keep else slice(product.shape[1])]
        torch.add(product, readout.b_U[tokens], alpha=readout.multiplier, out=logits)
        values = self._increases[0].transformed(logits)
        highest = torch.maximum(self._highest, values.amax(1))
        self.rescale = (self._highest.double() - highest).exp()
        self.weights = (values - highest[:, None]).exp_()
        self.total = self.total * self.rescale + self.weights.sum(1, dtype=torch.float64)
        self._highest = highest
        return values

    @property
    def log_normaliser(self) -> Float[Tensor, "batch"]:
        """The log of the sum of the exponentials, in float64, once all chunks were taken."""
        return self._highest.double() + self.total.log()

    def keep(self) -> None:
        """Keep what was read out, once all chunks were taken."""
        normaliser = self.log_normaliser
        sizes = [len(each.base) for each in self._increases]
        for each, own, size in zip(self._increases, self.logits.split(sizes), normaliser.split(sizes), strict=True):
            each.known |= {"logits": own, "log_normaliser": size}


def read_out(increases: Sequence[Increase]) -> None:
    """Read out every base stream that has not been yet, all of them in one pass over ``W_U`` (paper 1, Eq. 2)."""
    new = [each for each in increases if "logits" not in each.known]
    if new:
        fresh = ReadOut(new)
        for tokens, W_U in new[0].readout.chunks(WIDTH):
            fresh.take(tokens, fresh.streams @ W_U)
        fresh.keep()


def target_log_probs(increases: Sequence[Increase]) -> list[Float[Tensor, "batch"]]:
    """Return log p(target) in every base stream, in float64, all in one pass over ``W_U``; no logits are kept."""
    fresh = ReadOut(increases, keep=False)
    targets, logits = torch.cat([each.target for each in increases]), torch.zeros_like(fresh.total)
    for tokens, W_U in increases[0].readout.chunks(WIDTH):
        values = fresh.take(tokens, fresh.streams @ W_U)
        here = ((targets >= tokens.start) & (targets < tokens.stop)).nonzero()[:, 0]
        logits[here] = values[here, targets[here] - tokens.start].double()
    return list((logits - fresh.log_normaliser).split([len(each.base) for each in increases]))


def mean_unembeddings(increases: Sequence[Increase]) -> None:
    """Find ``E_p[W_U]`` of every base stream that lacks it, all of them in one pass over ``W_U``.

    Streams that have not been read out are read out in the same pass.
    """
    unread = [each for each in increases if "logits" not in each.known]
    if unread:
        fresh = ReadOut(unread)
        mean = torch.zeros_like(fresh.streams)
        for tokens, W_U in unread[0].readout.chunks(WIDTH):
            fresh.take(tokens, fresh.streams @ W_U)
            mean.mul_(fresh.rescale[:, None]).addmm_(fresh.weights, W_U.T)
        fresh.keep()
        _keep_means(unread, mean / fresh.total[:, None].to(mean.dtype))
    new = [each for each in increases if "mean" not in each.known]
    if new:
        mean = torch.cat([each.base for each in new]).zero_()
        for _, directions, p in distributions(new):
            mean.addmm_(p, directions.T)
        _keep_means(new, mean)


def distributions(
    increases: Sequence[Increase],
) -> Iterator[tuple[slice, Float[Tensor, "d_model chunk"], Float[Tensor, "n chunk"]]]:
    """Yield the vocabulary a chunk at a time: the tokens, their unembedding vectors, and ``p`` in each base stream."""
    p = increases[0].base.new_empty(0)
    for i, (tokens, W_U) in enumerate(increases[0].readout.chunks(WIDTH)):
        here = slice(i % TOGETHER * WIDTH, i % TOGETHER * WIDTH + W_U.shape[1])
        if here.start == 0:
            some = slice(tokens.start, tokens.start + TOGETHER * WIDTH)
            p = torch.cat([each.log_p(some) for each in increases]).exp_()
        yield tokens, W_U, p[:, here]


def _keep_means(increases: Sequence[Increase], mean: Float[Tensor, "n d_model"]) -> None:
    for each, own in zip(increases, mean.split([len(each.base) for each in increases]), strict=True):
        each.known["mean"] = own


def pick(values: Float[Tensor, "n d_vocab"], tokens: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Return ``values[i, tokens[i]]``."""
    return values.gather(-1, tokens[:, None])[:, 0]


def rows_within(max_bytes: int, readout: Readout) -> int:
    """Return how many rows of logits fit in ``max_bytes``, with the three temporaries a score needs beside them."""
    return max(1, max_bytes // (4 * readout.d_vocab * readout.dtype.itemsize))


def log_sum_exp(values: Float[Tensor, "n d_vocab"]) -> Float[Tensor, "n"]:
    """Return the log of the sum of exponentials, summed in float64: of 262,144 terms, float32 would lose up to 1e-4."""
    highest = values.amax(1)
    return highest.double() + (values - highest[:, None]).exp_().sum(1, dtype=torch.float64).log()
