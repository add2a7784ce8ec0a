"""Value neurons: the neurons whose writes raise a token's log-probability most (paper 1, section 3.2), certified."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache
from typing_extensions import Unpack

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.knowledge.followed import followed_text
from tl_neuron_attr.knowledge.vocabulary import promoted_shown, with_text
from tl_neuron_attr.model import additive_checks
from tl_neuron_attr.model.dimensions import sizes_of
from tl_neuron_attr.model.scored import as_scored
from tl_neuron_attr.model.scored_cache import ScoredCache, Scoring
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.targets import Target
from tl_neuron_attr.numerics.flat_index import flat_coefficients
from tl_neuron_attr.numerics.increase import MAX_BYTES
from tl_neuron_attr.numerics.sublayer import SITES, Site, Sublayer
from tl_neuron_attr.numerics.topk import TopK, certified_topk
from tl_neuron_attr.results.common import CommonNeurons
from tl_neuron_attr.results.neurons import Neurons


@typechecked
@torch.no_grad()
def value_neurons(
    cache: ActivationCache | ScoredCache,
    target: Target | None = None,
    k: int = 30,
    *,
    sites: Site | Sequence[Site] = ("mlp", "attn"),
    largest: bool = True,
    text: bool = True,
    exclude_common: CommonNeurons | None = None,
    max_bytes: int = MAX_BYTES,
    **scoring: Unpack[Scoring],
) -> Neurons:
    """Return the ``k`` neurons that raise log p(target) most, out of all of them: exact, and certified to be the top k.

    The result is what sorting :func:`~tl_neuron_attr.attribute_mlp_neurons` and
    :func:`~tl_neuron_attr.attribute_attn_neurons` would give (paper 1, Eq. 13), at about the cost of a forward pass;
    see :mod:`tl_neuron_attr.numerics.topk`. An attention neuron counts once for each source position it reads.

    Args:
        cache: A cache of a forward pass, with or without a batch dimension; or what :func:`~tl_neuron_attr.scored`
            made of it, which has its own target and scoring.
        target: The token followed: an id, a string that is one token, or one of them per prompt.
        k: How many neurons.
        sites: Which neurons: ``"mlp"``, ``"attn"`` or both.
        largest: False for the neurons that lower log p(target) most.
        text: False leaves out the tokens that the neurons read and promote, which cost one product of their directions
            with ``W_U``: for many neurons of which none is shown.
        exclude_common: Neurons to leave out, as :func:`~tl_neuron_attr.common_neurons` found them.
        max_bytes: A cap on the working set; one prompt's base distributions are held at the least.
        **scoring: ``pos``, ``contrast``, ``model``, ``final_bias``: see :func:`~tl_neuron_attr.scored`.

    Returns:
        :class:`~tl_neuron_attr.Neurons`, scores in nats.

    Raises:
        ValueError: If the cache, target, ``k`` or ``sites`` is invalid.
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
    q = as_scored(cache, target, wanted, max_bytes=max_bytes, **scoring)
    excluded = (
        0 if exclude_common is None else exclude_common.count(wanted, q.stream.shape[1], sizes_of(q.stream.model))
    )
    available = q.stream.neuron_count(wanted) - excluded
    if not 1 <= k <= available:
        raise ValueError(f"k must be between 1 and the {available} neurons of {'/'.join(wanted)}, got {k}")
    if q.readout.transform is not None:
        warnings.warn(
            "the model caps its logits, so the top k needs every neuron's score: this takes longer", stacklevel=2
        )
    check = partial(_check, q.stream)
    found: list[Neurons] = []
    noted: list[Tensor] = []
    shown = promoted_shown(q.stream.model) if text and not excluded else 0
    for group in q.groups(max_bytes, whole=True):
        sublayers = list(group.stream.sublayers(group.places, wanted))
        increases = group.increases(wanted)
        top = certified_topk(
            increases,
            sublayers,
            k + excluded,
            largest=largest,
            max_bytes=max_bytes,
            check=check,
            promoted=shown,
            sums=group.sums,
            kept=group.kept(wanted),
        )
        additive_checks.require_finite(q.stream, top.score, "the scores")
        found.append(neurons_of(group, sublayers, top))
        noted += [] if top.promoted is None else [top.promoted]
    best = Neurons.joined(found) if exclude_common is None else exclude_common.without(Neurons.joined(found), k)
    promoted = torch.cat(noted) if len(noted) == len(found) else None
    followed = followed_text(q) if text else None
    shown = with_text(best, q.stream, promoted, rows=q.rows, followed=followed) if text else best
    return shown.squeeze(batched=q.batched)


def _check(
    stream: Stream,
    sublayer: Sublayer,
    along: Float[Tensor, "batch d_model"],
    written: Float[Tensor, "batch neuron source"],
) -> None:
    additive_checks.require_finite(stream, written, "the scores")
    additive_checks.require_neurons_add_up(stream, sublayer, along, written)


def neurons_of(q: ScoredCache, sublayers: Sequence[Sublayer], top: TopK) -> Neurons:
    """Return neurons that were scored exactly; of an answer, with the coefficient where each scores most."""
    if q.sums is None or top.by_place is None:
        return Neurons.of_sublayers(sublayers, top.flat, score=top.score, evaluated=top.evaluated)
    by_place = flat_coefficients(sublayers).gather(1, top.flat[q.result_of_place])
    strongest = torch.stack(
        [by_place[mine].gather(0, top.by_place[mine].abs().argmax(0)[None])[0] for mine in _members(q)]
    )
    found = Neurons.of_sublayers(sublayers, top.flat, coefficient=strongest, score=top.score, evaluated=top.evaluated)
    return _with_tokens(q, found, by_place, top.by_place)


def _members(q: ScoredCache) -> list[Int[Tensor, "place"]]:
    """Return the places of each result."""
    return [(q.result_of_place == result).nonzero()[:, 0] for result in range(len(q))]


def _with_tokens(
    q: ScoredCache, neurons: Neurons, coefficient: Float[Tensor, "place k"], score: Float[Tensor, "place k"]
) -> Neurons:
    """Return neurons with what each token of the answer adds to their scores, where they are sums over tokens."""
    places = q.token_places
    if q.sums is None or places is None:
        return neurons
    behind = (places < 0)[..., None]
    signed = score * q.sums.sign_of_place[:, None]
    shares = signed[places] if q.additive else neurons.score[:, None]
    return replace(
        neurons,
        token_score=shares.masked_fill(behind, 0),
        token_coefficient=coefficient[places].masked_fill(behind, torch.nan),
    )


def ordered(sites: Site | Sequence[Site]) -> tuple[Site, ...]:
    """Return ``sites``, one or several, in the order of the stream.

    Raises:
        ValueError: If there is none, or one is unknown or named twice.
    """
    named = (sites,) if isinstance(sites, str) else sites
    chosen: tuple[Site, ...] = tuple(site for site in SITES if site in named)
    if not chosen or len(chosen) != len(named):
        raise ValueError(f"sites must name 'mlp', 'attn' or both, once each, got {sites!r}")
    return chosen
