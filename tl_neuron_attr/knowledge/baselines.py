"""Eight ways to score MLP neurons for a token: paper 1's own and the seven it is compared with (section 4.1).

With ``m`` a neuron's coefficient, ``v`` its direction and ``h`` the stream its sublayer read:

    a  log_prob_increase   log p(w | h + m v) - log p(w | h)
    b  log_prob            log p(w | m v)
    c  prob_increase       p(w | h + m v) - p(w | h)
    d  norm                |v|
    e  coefficient         |m|
    f  rank                1 / rank of w in v
    g  coefficient_norm    |m| |v|                                (Geva et al., 2022)
    h  coefficient_rank    |m| / rank of w in v
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache
from typing_extensions import Unpack

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.model.scored import as_scored
from tl_neuron_attr.model.scored_cache import ScoredCache, Scoring
from tl_neuron_attr.model.targets import Target
from tl_neuron_attr.numerics.every_neuron import direction_chunks, neuron_scores
from tl_neuron_attr.numerics.increase import MAX_BYTES, Increase
from tl_neuron_attr.numerics.readout import Readout
from tl_neuron_attr.numerics.sublayer import Sublayer

Score = Literal[
    "log_prob_increase", "log_prob", "prob_increase", "norm", "coefficient", "rank",
    "coefficient_norm", "coefficient_rank",
]  # fmt: skip
SCORES: tuple[Score, ...] = get_args(Score)
"""All eight, in the paper's order."""

Scores = Float[Tensor, "batch d_mlp"]


@typechecked
@torch.no_grad()
def baseline_scores(
    cache: ActivationCache | ScoredCache,
    target: Target | None = None,
    *,
    score: Score = "log_prob_increase",
    max_bytes: int = MAX_BYTES,
    **scoring: Unpack[Scoring],
) -> Float[Tensor, "*b layer d_mlp"]:
    """Return every MLP neuron's score by one of the eight methods of paper 1, section 4.1; higher is more important.

    Args:
        cache: A cache of a forward pass, with or without a batch dimension; or what :func:`~tl_neuron_attr.scored`
            made of it, which has its own target and scoring.
        target: The token followed.
        score: The method; see :mod:`tl_neuron_attr.knowledge.baselines`. Nats for the log-probabilities,
            probabilities for ``prob_increase``, model units for the others.
        max_bytes: A cap on the working set.
        **scoring: ``pos``, ``model``, ``final_bias``: see :func:`~tl_neuron_attr.scored`.

    Of an answer of several tokens each method's scores are summed over the tokens, but for ``prob_increase``, which is
    of the whole answer's probability.

    Raises:
        ValueError: If the cache or the target is invalid, or there is a contrast, or several right answers.
        IndexError: If a position or token id is out of range.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> baseline_scores(cache, " basketball", score="rank").max() <= 1
        tensor(True)
    """
    q = as_scored(cache, target, ("mlp",), max_bytes=max_bytes, **scoring)
    if q.contrast is not None or (q.sums is not None and len(q.sums.result) > len(q)):
        raise ValueError(
            "the eight methods score one token or one answer: leave out the contrast, or the other answers"
        )
    increase = score == "prob_increase" and q.sums is not None
    method = _METHODS["log_prob_increase" if increase else score]
    found: list[Tensor] = []
    base: list[Tensor] = []
    for group in q.groups(max_bytes):
        found.append(torch.stack([method(group, s, max_bytes) for s in group.checked_sublayers(("mlp",))], dim=1))
        if increase:
            base.append(torch.stack([each.target_log_p() for each in group.increases(("mlp",))], dim=1))
    scores = q.finish(torch.cat(found))
    return q.finish(torch.cat(base)).exp()[..., None].to(scores.dtype) * scores.expm1() if increase else scores


def _log_prob_increase(q: ScoredCache, sublayer: Sublayer, max_bytes: int) -> Scores:
    return neuron_scores(q.increase("mlp", sublayer.layer), sublayer, max_bytes=max_bytes)[..., 0]


def _log_prob(q: ScoredCache, sublayer: Sublayer, max_bytes: int) -> Scores:
    """Return ``log p(w | m v)``: the increase over a stream of zeros, plus the uniform prediction made there."""
    bare = q.readout.without_biases()
    nothing = Increase(bare, torch.zeros_like(sublayer.base), q.target)
    uniform = -torch.tensor(float(q.readout.d_vocab), dtype=q.readout.dtype).log()
    return neuron_scores(nothing, sublayer, max_bytes=max_bytes)[..., 0] + uniform.to(sublayer.base.device)


def _prob_increase(q: ScoredCache, sublayer: Sublayer, max_bytes: int) -> Scores:
    base = q.increase("mlp", sublayer.layer).log_p().gather(1, q.target[:, None]).exp()
    return base * _log_prob_increase(q, sublayer, max_bytes).expm1()


def _norm(q: ScoredCache, sublayer: Sublayer, max_bytes: int) -> Scores:
    gain = torch.as_tensor(sublayer.gain, device=sublayer.base.device).to(sublayer.base).reshape(-1, 1)
    return (sublayer.unscaled_directions().norm(dim=-1) * gain).expand(len(sublayer.base), -1)


def _coefficient(q: ScoredCache, sublayer: Sublayer, max_bytes: int) -> Scores:
    return sublayer.coefficients[..., 0].abs()


def _rank(q: ScoredCache, sublayer: Sublayer, max_bytes: int) -> Scores:
    return inverse_ranks(q.readout, sublayer, q.target, max_bytes=max_bytes)


def inverse_ranks(
    readout: Readout, sublayer: Sublayer, tokens: Int[Tensor, "token"], *, max_bytes: int = MAX_BYTES
) -> Float[Tensor, "token neuron"]:
    """Return one over the rank of each token among all by their logits in each neuron's direction."""
    ranks = [
        1 + torch.stack([(chunk > chunk[:, token, None]).sum(1) for token in tokens.tolist()])
        for _, chunk in direction_chunks(readout, sublayer, max_bytes=max_bytes)
    ]
    return 1 / torch.cat(ranks, dim=1).to(sublayer.base.dtype)


def _coefficient_norm(q: ScoredCache, sublayer: Sublayer, max_bytes: int) -> Scores:
    return _coefficient(q, sublayer, max_bytes) * _norm(q, sublayer, max_bytes)


def _coefficient_rank(q: ScoredCache, sublayer: Sublayer, max_bytes: int) -> Scores:
    return _coefficient(q, sublayer, max_bytes) * _rank(q, sublayer, max_bytes)


_METHODS: dict[Score, Callable[[ScoredCache, Sublayer, int], Scores]] = {
    "log_prob_increase": _log_prob_increase,
    "log_prob": _log_prob,
    "prob_increase": _prob_increase,
    "norm": _norm,
    "coefficient": _coefficient,
    "rank": _rank,
    "coefficient_norm": _coefficient_norm,
    "coefficient_rank": _coefficient_rank,
}
