"""Value neurons: the neurons whose writes raise a token's log-probability most (paper 1, section 3.2), certified."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.knowledge.vocabulary import with_text
from tl_neuron_attr.model import cache_checks
from tl_neuron_attr.model.positions import Pos
from tl_neuron_attr.model.scored_cache import Question, ask
from tl_neuron_attr.model.targets import Target
from tl_neuron_attr.numerics.every_neuron import neuron_scores
from tl_neuron_attr.numerics.flat_index import best_of
from tl_neuron_attr.numerics.increase import MAX_BYTES, Increase
from tl_neuron_attr.numerics.sublayer import SITES, Site, Sublayer
from tl_neuron_attr.numerics.topk import TopK, certified_topk, gradient
from tl_neuron_attr.results.neurons import Neurons


@typechecked
@torch.no_grad()
def value_neurons(
    cache: ActivationCache,
    target: Target,
    k: int = 30,
    *,
    sites: Sequence[Site] = ("mlp", "attn"),
    largest: bool = True,
    pos: Pos = -1,
    contrast: Target | None = None,
    model: Any = None,
    final_bias: bool = True,
    max_bytes: int = MAX_BYTES,
) -> Neurons:
    """The ``k`` neurons that raise log p(target) most, out of all of them: exact, and certified to be the top k.

    The result is what sorting :func:`~tl_neuron_attr.attribute_mlp_neurons` and
    :func:`~tl_neuron_attr.attribute_attn_neurons` would give (paper 1, Eq. 13), at about the cost of a forward pass;
    see :mod:`tl_neuron_attr.numerics.topk`. An attention neuron counts once for each source position it reads.

    Args:
        cache: A cache of a forward pass, with or without a batch dimension.
        target: The token followed: an id, a string that is one token, or one of them a prompt.
        k: How many neurons.
        sites: Which neurons: ``"mlp"``, ``"attn"`` or both.
        largest: False for the neurons that lower log p(target) most.
        pos: The position scored, one for all prompts or one each; the last by default.
        contrast: If given, scores are of ``log p(target) - log p(contrast)``.
        model: The model that made the cache; ``cache.model`` by default.
        final_bias: False leaves the final norm's bias out of the base, as the authors' GPT-2 notebook does.
        max_bytes: A cap on the working set.

    Returns:
        :class:`~tl_neuron_attr.Neurons`, scores in nats.

    Raises:
        ValueError: If the cache, target, ``k`` or ``sites`` will not do.
        IndexError: If a position or token id is out of range.

    Warns:
        UserWarning: If the model caps its logits (Gemma-2): every neuron is then scored, which takes longer.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> value = tna.value_neurons(cache, " basketball", k=5)
        >>> len(value), bool((value.score.diff() <= 0).all())
        (5, True)
    """
    wanted = ordered(sites)
    q = ask(cache, target, wanted, pos=pos, contrast=contrast, model=model, final_bias=final_bias)
    available = q.stream.neuron_count(wanted)
    if not 1 <= k <= available:
        raise ValueError(f"k must be between 1 and the {available} neurons of {'/'.join(wanted)}, got {k}")
    if q.readout.transform is not None:
        warnings.warn(
            "the model caps its logits, so the top k needs every neuron's score: this takes longer", stacklevel=2
        )
    found: list[Neurons] = []
    for prompts in q.places.row.split(_prompts_within(max_bytes, q, wanted)):
        sublayers = list(q.stream.sublayers(q.places.select(prompts), wanted))
        top = _search(q, sublayers, prompts, k, largest, max_bytes)
        found.append(_as_neurons(sublayers, top))
    return with_text(Neurons.joined(found), q.stream).squeeze(batched=q.stream.batched)


def _search(
    q: Question, sublayers: list[Sublayer], prompts: Int[Tensor, "batch"], k: int, largest: bool, max_bytes: int
) -> TopK:
    increase = stacked(q, sublayers, prompts)
    if q.readout.transform is not None:
        return _ranked(_every_score(increase, sublayers, max_bytes), k, largest)
    bounds: list[Tensor] = []
    for sublayer, g in zip(sublayers, gradient(increase).unflatten(0, (len(sublayers), -1)), strict=True):
        bounds.append(sublayer.project_onto(g))
        cache_checks.require_neurons_add_up(q.stream, sublayer, g, bounds[-1])
    flat = torch.cat([bound.flatten(1) for bound in bounds], dim=1)
    cache_checks.require_finite(q.stream, flat, "the scores")
    if increase.linear:
        return _ranked(flat, k, largest)
    return certified_topk(increase, sublayers, flat, k, largest=largest, max_bytes=max_bytes)


def stacked(q: Question, sublayers: Sequence[Sublayer], prompts: Int[Tensor, "batch"]) -> Increase:
    """One row a sublayer and prompt, so that every stream is read out in one pass over ``W_U``."""
    rows = prompts.repeat(len(sublayers))
    contrast = None if q.contrast is None else q.contrast[rows]
    return Increase(q.readout.select(rows), torch.cat([s.base for s in sublayers]), q.target[rows], contrast)


def _every_score(
    increase: Increase, sublayers: Sequence[Sublayer], max_bytes: int
) -> Float[Tensor, "batch neuron_source"]:
    rows = torch.arange(len(increase.base), device=increase.base.device).unflatten(0, (len(sublayers), -1))
    scores = [neuron_scores(increase.select(r), s, max_bytes=max_bytes) for r, s in zip(rows, sublayers, strict=True)]
    return torch.cat([score.flatten(1) for score in scores], dim=1)


def _ranked(scores: Float[Tensor, "batch neuron_source"], k: int, largest: bool) -> TopK:
    flat = torch.stack([best_of(row if largest else -row, k) for row in scores])
    return TopK(flat, scores.gather(1, flat), torch.full((len(scores),), scores.shape[1]))


def _as_neurons(sublayers: Sequence[Sublayer], top: TopK) -> Neurons:
    coefficients = torch.cat([s.coefficients.flatten(1) for s in sublayers], dim=1)
    return Neurons.of_sublayers(
        sublayers,
        top.flat,
        coefficient=coefficients.gather(1, top.flat),
        score=top.score,
        evaluated=top.evaluated,
    )


def ordered(sites: Sequence[Site]) -> tuple[Site, ...]:
    """``sites`` in the order of the stream."""
    chosen: tuple[Site, ...] = tuple(site for site in SITES if site in sites)
    if isinstance(sites, str) or not chosen or len(chosen) != len(sites):
        raise ValueError(f"sites must name 'mlp', 'attn' or both, once each, got {sites!r}")
    return chosen


def _prompts_within(max_bytes: int, q: Question, sites: Sequence[Site]) -> int:
    """How many prompts have all their base distributions, coefficients and bounds in ``max_bytes``."""
    distributions = 4 * q.readout.d_vocab * q.stream.n_layers * len(sites)
    neurons = 4 * q.stream.neuron_count(sites)
    return max(1, max_bytes // ((distributions + neurons) * q.readout.dtype.itemsize))
