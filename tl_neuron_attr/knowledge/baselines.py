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
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.model import cache_checks
from tl_neuron_attr.model.positions import Pos
from tl_neuron_attr.model.scored_cache import Question, ask
from tl_neuron_attr.model.targets import Target
from tl_neuron_attr.numerics.every_neuron import neuron_scores, tiles
from tl_neuron_attr.numerics.increase import MAX_BYTES, Increase
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
    cache: ActivationCache,
    target: Target,
    *,
    score: Score = "log_prob_increase",
    pos: Pos = -1,
    model: Any = None,
    max_bytes: int = MAX_BYTES,
) -> Float[Tensor, "*b layer d_mlp"]:
    """Every MLP neuron's score by one of the eight methods of paper 1, section 4.1; higher is more important.

    Args:
        cache: A cache of a forward pass, with or without a batch dimension.
        target: The token followed.
        score: The method; see :mod:`tl_neuron_attr.knowledge.baselines`. Nats for the log-probabilities,
            probabilities for ``prob_increase``, model units for the others.
        pos: The position scored; the last by default.
        model: The model that made the cache; ``cache.model`` by default.
        max_bytes: A cap on the working set.

    Raises:
        ValueError: If the cache or the target will not do.
        IndexError: If a position or token id is out of range.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> baseline_scores(cache, " basketball", score="rank").max() <= 1
        tensor(True)
    """
    q = ask(cache, target, ("mlp",), pos=pos, model=model)
    scores = torch.stack([_METHODS[score](q, s, max_bytes) for s in q.checked_sublayers(("mlp",))], dim=1)
    cache_checks.require_finite(q.stream, scores, "the scores")
    return q.finish(scores)


def _log_prob_increase(q: Question, sublayer: Sublayer, max_bytes: int) -> Scores:
    return neuron_scores(q.increase("mlp", sublayer.layer), sublayer, max_bytes=max_bytes)[..., 0]


def _log_prob(q: Question, sublayer: Sublayer, max_bytes: int) -> Scores:
    """``log p(w | m v)``: the increase over a stream of zeros, whose prediction is uniform, plus that prediction's."""
    bare = q.readout.without_biases()
    nothing = Increase(bare, torch.zeros_like(sublayer.base), q.target)
    uniform = -torch.tensor(float(q.readout.d_vocab), dtype=q.readout.dtype).log()
    return neuron_scores(nothing, sublayer, max_bytes=max_bytes)[..., 0] + uniform.to(sublayer.base.device)


def _prob_increase(q: Question, sublayer: Sublayer, max_bytes: int) -> Scores:
    base = q.increase("mlp", sublayer.layer).log_p.gather(1, q.target[:, None]).exp()
    return base * _log_prob_increase(q, sublayer, max_bytes).expm1()


def _norm(q: Question, sublayer: Sublayer, max_bytes: int) -> Scores:
    gain = torch.as_tensor(sublayer.gain, device=sublayer.base.device).to(sublayer.base).reshape(-1, 1)
    return (sublayer.unscaled_directions().norm(dim=-1) * gain).expand(len(sublayer.base), -1)


def _coefficient(q: Question, sublayer: Sublayer, max_bytes: int) -> Scores:
    return sublayer.coefficients[..., 0].abs()


def _rank(q: Question, sublayer: Sublayer, max_bytes: int) -> Scores:
    """One over the place of the target among all tokens by their logits in the neuron's direction."""
    ranks = [
        1 + torch.stack([(tile > tile[:, w, None]).sum(1) for w in q.target.tolist()])
        for _, tile in tiles(q.readout, sublayer, max_bytes=max_bytes)
    ]
    return 1 / torch.cat(ranks, dim=1).to(sublayer.base.dtype)


def _coefficient_norm(q: Question, sublayer: Sublayer, max_bytes: int) -> Scores:
    return _coefficient(q, sublayer, max_bytes) * _norm(q, sublayer, max_bytes)


def _coefficient_rank(q: Question, sublayer: Sublayer, max_bytes: int) -> Scores:
    return _coefficient(q, sublayer, max_bytes) * _rank(q, sublayer, max_bytes)


_METHODS: dict[Score, Callable[[Question, Sublayer, int], Scores]] = {
    "log_prob_increase": _log_prob_increase,
    "log_prob": _log_prob,
    "prob_increase": _prob_increase,
    "norm": _norm,
    "coefficient": _coefficient,
    "rank": _rank,
    "coefficient_norm": _coefficient_norm,
    "coefficient_rank": _coefficient_rank,
}
