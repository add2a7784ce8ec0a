"""The best MLP neurons by a score of paper 1, found by bounds where the score is a log-probability increase."""

from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr.model.scored import scored_predictions
from tl_neuron_attr.model.scored_cache import ScoredCache
from tl_neuron_attr.numerics.increase import Increase
from tl_neuron_attr.numerics.sublayer import Sublayer
from tl_neuron_attr.numerics.topk import TopK, certified_topk
from tl_neuron_attr.results.neurons import Neurons

Searched = Literal["log_prob_increase", "log_prob", "prob_increase"]
SEARCHED: tuple[Searched, ...] = ("log_prob_increase", "log_prob", "prob_increase")
"""The scores whose best neurons need no score of the others."""


@torch.no_grad()
def best_by_score(cache: ActivationCache, target: Int[Tensor, "batch token"], score: Searched, k: int) -> Neurons:
    """Return each prompt's ``k`` best MLP neurons by one of :data:`SEARCHED`, as sorting every score would give.

    Of an answer of several tokens, log-probabilities are sums over its tokens, and its probability is their product.
    """
    q = scored_predictions(cache, target)
    q.require(("mlp",))
    sublayers = list(q.checked_sublayers(("mlp",)))
    found = _SEARCHES[score](q, sublayers, k)
    last = torch.searchsorted(q.result_of_place, torch.arange(len(q), device=q.target.device), right=True) - 1
    coefficient = torch.cat([sublayer.coefficients[last, :, 0] for sublayer in sublayers], dim=1).gather(1, found.flat)
    return Neurons.of_sublayers(sublayers, found.flat, score=found.score, coefficient=coefficient)


def _by_increase(q: ScoredCache, sublayers: list[Sublayer], k: int) -> TopK:
    return certified_topk(q.increases(("mlp",)), sublayers, k, sums=q.sums)


def _by_log_prob(q: ScoredCache, sublayers: list[Sublayer], k: int) -> TopK:
    """Return the best by ``log p(w | m v)``: an increase over a stream of zeros, whose prediction is uniform."""
    nothing = Increase(q.readout.without_biases(), torch.zeros_like(sublayers[0].base), q.target)
    nothing.mean  # noqa: B018  read out once, and not once for each sublayer
    found = certified_topk([nothing] * len(sublayers), sublayers, k, sums=q.sums)
    uniform = -torch.tensor(float(q.readout.d_vocab), dtype=q.readout.dtype).log() * (len(q.places) // len(q))
    return TopK(found.flat, found.score + uniform.to(found.score.device), found.evaluated)


def _by_prob_increase(q: ScoredCache, sublayers: list[Sublayer], k: int) -> TopK:
    """Return the best of each layer's best: within a layer the order is that of the log-probability increase."""
    flats: list[torch.Tensor] = []
    scores: list[torch.Tensor] = []
    start, evaluated = 0, torch.zeros(len(q), dtype=torch.long)
    for increase, sublayer in zip(q.increases(("mlp",)), sublayers, strict=True):
        width = sublayer.coefficients[0].numel()
        best = certified_topk([increase], [sublayer], min(k, width), sums=q.sums)
        flats.append(best.flat + start)
        base = increase.target_log_p() if q.sums is None else q.sums(increase.target_log_p())
        scores.append(base.exp()[:, None].to(best.score) * best.score.expm1())
        start, evaluated = start + width, evaluated + best.evaluated.cpu()
    top = torch.cat(scores, dim=1).topk(k)
    return TopK(torch.cat(flats, dim=1).gather(1, top.indices), top.values, evaluated)


_SEARCHES = {"log_prob_increase": _by_increase, "log_prob": _by_log_prob, "prob_increase": _by_prob_increase}
