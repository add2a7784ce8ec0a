"""Which MLP neurons a method picks: the scores of the paper, gradients, random ones, and scores of the user."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr.evaluate.best_by_score import SEARCHED, best_by_score
from tl_neuron_attr.evaluate.contrasted import ContrastedBatch, best_by_increase, gradient_scores
from tl_neuron_attr.evaluate.gradients import gradient, integrated_gradients
from tl_neuron_attr.evaluate.rank_scores import BY_RANK, RankScores
from tl_neuron_attr.knowledge.baselines import SCORES, Score, baseline_scores
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.batches import AnswerBatch
from tl_neuron_attr.model.scored import scored_predictions
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.results.neurons import Neurons

Method = Score | Literal["gradient", "integrated_gradients", "random"]

METHODS: tuple[Method, ...] = (*SCORES, "gradient", "integrated_gradients", "random")
"""The paper's eight, and three of our own."""

GRADIENTS = {"gradient", "integrated_gradients"}
"""The methods that take backward passes."""

OwnScore = Callable[[Any, ActivationCache, Tensor, Tensor], Any]
"""A score of your own: of the model, a cache, its tokens (``batch pos``) and one target id per prompt, every MLP
neuron's score, ``Float["batch layer d_mlp"]``, higher for more important; for targets of one token."""

AnyMethod = Method | OwnScore

UNTOUCHED = "none"
"""The method of the rows of the untouched model."""


def method_scores(
    model: Any,
    cache: ActivationCache,
    tokens: Int[Tensor, "batch pos"],
    target: Int[Tensor, "batch token"],
    method: AnyMethod,
    ranks: RankScores,
) -> Float[Tensor, "batch layer d_mlp"]:
    """Return every MLP neuron's score by one of :data:`METHODS` but ``"random"``, which needs a generator."""
    if callable(method):
        return _own_scores(method, model, cache, tokens, target[:, 0])
    if method == "gradient":
        return gradient(model, tokens, target)
    if method == "integrated_gradients":
        return integrated_gradients(model, tokens, target)
    q = scored_predictions(cache, target)
    for by_rank in BY_RANK:
        if method == by_rank:
            return ranks.scores(q, by_rank)
    return baseline_scores(q, score=cast(Score, method))


def best_by_method(
    model: Any,
    cache: ActivationCache,
    batch: AnswerBatch,
    method: AnyMethod,
    k: int,
    seed: int,
    ranks: RankScores,
) -> Neurons:
    """Return each prompt's ``k`` best MLP neurons by a method, best first."""
    if isinstance(batch, ContrastedBatch) and method == "log_prob_increase":
        return best_by_increase(model, batch, k)
    stream = Stream(cache, model)
    post = torch.stack([stream.mlp_coefficients(layer, stream.last) for layer in range(stream.n_layers)], dim=1)
    for searched in SEARCHED:
        if method == searched:
            return best_by_score(cache, batch.target, searched, k)
    if method == "random":
        scores = torch.stack([_noise(post[0].shape, i, seed) for i in batch.indices]).to(post)
        scores = scores.masked_fill(post == 0, -1.0)
    elif isinstance(batch, ContrastedBatch):
        scores = gradient_scores(model, batch, str(method))
    else:
        scores = method_scores(model, cache, batch.tokens, batch.target, method, ranks)
    best = scores.flatten(1).topk(k)
    layer, index = best.indices // post.shape[2], best.indices % post.shape[2]
    coefficient = post.flatten(1).gather(1, best.indices)
    return Neurons.of_mlp(layer, index, coefficient=coefficient, score=best.values)


def named_methods(scores: Sequence[Method], own: Mapping[str, OwnScore]) -> dict[str, AnyMethod]:
    """Return all scores by name.

    Raises:
        ValueError: If a score of the user's has a name that is taken.
    """
    taken = {*METHODS, UNTOUCHED}
    if clash := [name for name in own if name in taken]:
        raise ValueError(f"own_scores: the name {clash[0]!r} is taken by a method: choose another")
    return {**{method: method for method in scores}, **own}


def _own_scores(
    score: OwnScore, model: Any, cache: ActivationCache, tokens: Int[Tensor, "batch pos"], target: Int[Tensor, "batch"]
) -> Float[Tensor, "batch layer d_mlp"]:
    """Return what the user's function gives, checked.

    Raises:
        ValueError: If it is not one score per neuron, or holds NaN.
    """
    found = score(model, cache, tokens, target)
    shape = (len(tokens), model.cfg.n_layers, dimensions.d_mlp(model, 0))
    if not isinstance(found, Tensor) or tuple(found.shape) != shape:
        given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"own_scores must give a tensor of shape {shape}, one score per MLP neuron, got {given}")
    if bool(found.isnan().any()):
        raise ValueError("own_scores gave NaN: give every neuron a number")
    return found


def _noise(shape: torch.Size, prompt: int, seed: int) -> Tensor:
    """Return uniform numbers that depend on the prompt's place in the list, not on its batch."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed * 1_000_003 + prompt))
