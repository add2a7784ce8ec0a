"""Query layers and query neurons: what switched the value neurons on (paper 1, section 3.2).

A value neuron with score ``S`` (Eq. 13) reads the stream with its subkey ``u``. The paper ranks components ``a`` by the
inner product ``u . a`` and weights several value neurons by ``S``. What it does not say is in the authors' code: the
share ``u . a / sum_a u . a`` over all components that feed the neuron, so that its query scores ``S * share`` sum to
``S``; and that the non-linearity between pre-activation and coefficient is ignored. The same holds for the neurons a
component is made of, so all value neurons that read one position are followed with a single vector,
``sum S u / (sum_a u . a)``.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.knowledge.value_neurons import ordered
from tl_neuron_attr.knowledge.vocabulary import with_text
from tl_neuron_attr.model import additive_checks
from tl_neuron_attr.model.dimensions import sizes_of
from tl_neuron_attr.model.positions import Pos
from tl_neuron_attr.model.scored import checked_stream
from tl_neuron_attr.model.scored_cache import ScoredCache
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.subkeys import ILL_CONDITIONED, Key, Subkeys, components, depth_of, subkeys
from tl_neuron_attr.numerics.flat_index import best_of, locate
from tl_neuron_attr.numerics.increase import MAX_BYTES
from tl_neuron_attr.numerics.sublayer import SITES, Site, Sublayer
from tl_neuron_attr.results.common import CommonNeurons
from tl_neuron_attr.results.layer_scores import LayerScores
from tl_neuron_attr.results.neuron_file import PLACE
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.results.plural import plural

_BOTH: tuple[Site, ...] = ("attn", "mlp")


@typechecked
@torch.no_grad()
def query_layers(
    cache: ActivationCache | ScoredCache,
    value: Neurons,
    *,
    pos: Pos | None = None,
    key: Key = "both",
    model: Any = None,
) -> LayerScores:
    """Return how much the embedding and each sublayer switched the value neurons on, in nats.

    MLP value neurons read the scored position; attention value neurons the position they come from. The norm in front
    of a neuron is folded in exactly, centring included. The scores sum to those of the value neurons.

    Args:
        cache: The cache the value neurons were found in, or what :func:`~tl_neuron_attr.scored` made of it.
        value: The value neurons, of one prompt or of a batch.
        pos: The position they were scored at; the last by default.
        key: The subkey of a gated MLP neuron: its column of ``W_gate``, of ``W_in`` (``"up"``), or half of each one's
            share. The authors' Llama notebook used the neuron's row of ``W_out`` instead, which is not a key; their
            notebook of paper 3 uses gate and up. Without gates there is one key.
        model: The model that made the cache; ``cache.model`` by default.

    Returns:
        ``.embed``: ``Float["*b"]``, ``.attn`` and ``.mlp``: ``Float["*b layer"]``.

    Raises:
        ValueError: If ``value`` is of another cache, or the cache is refused.
        IndexError: If a position is out of range.

    Warns:
        UserWarning: Naming value neurons whose inner products nearly cancel. Their shares mean nothing; they are left
            out.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> value = tna.value_neurons(cache, " basketball", k=5)
        >>> query = query_layers(cache, value)
        >>> total = query.embed + query.attn.sum(-1) + query.mlp.sum(-1)
        >>> bool(torch.allclose(total, value.score.sum(-1), atol=1e-4))
        True
    """
    stream, rows = weighted_subkeys(cache, value, pos=pos, key=key, model=model)
    by_depth = {
        depth: _by_prompt(rows, (component * rows.above(depth)).sum(-1))
        for depth, component in components(stream, rows.places)
    }

    def site(name: Site) -> Float[Tensor, "batch layer"]:
        return torch.stack([by_depth[depth_of(name, layer)] for layer in range(stream.n_layers)], dim=1)

    scores = LayerScores(attn=site("attn"), mlp=site("mlp"), embed=by_depth[-1])
    if value.batched:
        return scores
    return LayerScores(attn=scores.attn[0], mlp=scores.mlp[0], embed=by_depth[-1][0])


@typechecked
@torch.no_grad()
def query_neurons(
    cache: ActivationCache | ScoredCache,
    value: Neurons,
    k: int = 30,
    *,
    sites: Site | Sequence[Site] = ("mlp", "attn"),
    pos: Pos | None = None,
    key: Key = "both",
    model: Any = None,
    text: bool = True,
    exclude_common: CommonNeurons | None = None,
    max_bytes: int = MAX_BYTES,
) -> Neurons:
    """Return the ``k`` neurons that switched the value neurons on most: exact query scores in nats, of all neurons.

    MLP neurons of earlier layers feed every value neuron, at the position it reads; attention neurons are considered
    for MLP value neurons, at the scored position (paper 1, section 3.2). A neuron that feeds several value neurons, at
    one position or many, has the sum of its scores; its coefficient is that where it contributed most.

    Args:
        cache: The cache the value neurons were found in, or what :func:`~tl_neuron_attr.scored` made of it.
        value: The value neurons, of one prompt or of a batch.
        k: How many; fewer are returned where fewer lie below the value neurons, none below layer 0.
        sites: Which query neurons: ``"mlp"``, ``"attn"`` or both.
        pos: The position the value neurons were scored at; the last by default.
        key: The subkey of a gated MLP neuron, as in :func:`query_layers`.
        model: The model that made the cache; ``cache.model`` by default.
        text: False leaves out the tokens that the neurons read and promote, which cost one product of their directions
            with ``W_U``: for many neurons of which none is shown.
        exclude_common: Neurons to leave out, as :func:`~tl_neuron_attr.common_neurons` found them.
        max_bytes: A cap on the working set.

    Returns:
        :class:`~tl_neuron_attr.Neurons`; their ``score`` is the query score.

    Raises:
        ValueError: If ``value`` is of another cache, ``k`` is below 1, or the cache or ``sites`` are refused.
        IndexError: If a position is out of range.

    Warns:
        UserWarning: As :func:`query_layers`.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> value = tna.value_neurons(cache, " basketball", k=5)
        >>> len(query_neurons(cache, value, k=3))
        3
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    wanted = ordered(sites)
    stream, rows = weighted_subkeys(cache, value, pos=pos, key=key, model=model, sites=wanted)
    prompts = torch.arange(rows.prompts, device=stream.device)
    excluded = 0 if exclude_common is None else exclude_common.count(wanted, stream.shape[1], sizes_of(stream.model))
    found = [
        _best(stream, _of_prompts(rows, group), group, wanted, k + excluded)
        for group in prompts.split(_prompts_within(max_bytes, stream, len(value), wanted))
    ]
    best = Neurons.joined(found) if exclude_common is None else exclude_common.without(Neurons.joined(found), k)
    own = cache.rows if isinstance(cache, ScoredCache) else None
    followed = None if value.text is None else value.text.followed
    return (with_text(best, stream, rows=own, followed=followed) if text else best).squeeze(batched=value.batched)


def weighted_subkeys(
    cache: ActivationCache | ScoredCache,
    value: Neurons,
    *,
    pos: Pos | None = None,
    key: Key = "both",
    model: Any = None,
    sites: Sequence[Site] = (),
) -> tuple[Stream, Subkeys]:
    """Return the stream, checked for what value neurons and neurons of ``sites`` need, and the value neurons' subkeys.

    Each subkey is multiplied with ``S / sum_a u . a``, so that inner products with it are query scores.

    Raises:
        ValueError: If ``value`` is of another cache.
    """
    used: tuple[Site, ...] = tuple(s for i, s in enumerate(SITES) if s in sites or bool((value.site == i).any()))
    stream, places, _ = checked_stream(cache, used, pos=pos, model=model, reads=True)
    batch = value if value.batched else value.unsqueeze()
    count = len(cache) if isinstance(cache, ScoredCache) else stream.shape[0]
    if len(batch.score) != count:
        raise ValueError(
            f"value is of {plural(len(batch.score), 'prompt')} and cache of {count}: take both from one run"
        )
    if isinstance(cache, ScoredCache) and cache.sums is not None:
        rows = _of_answers(cache, batch, key)
    elif batch.token_score is not None:
        raise ValueError("value is of an answer: pass the scored cache it was found in, made by tna.answer")
    else:
        rows = subkeys(stream, batch, places, key)
    total, size = rows.total(stream)
    bad = (total.abs() <= ILL_CONDITIONED * size) & (rows.score != 0)
    if bool(bad.any()):
        _warn(sorted({batch.flat_labels[i] for i in rows.neuron[bad].tolist()}))
    weight = torch.where(bad | (rows.score == 0), torch.zeros_like(total), rows.score / total)
    return stream, replace(rows, u=rows.u * weight[:, None])


def _of_answers(q: ScoredCache, value: Neurons, key: Key) -> Subkeys:
    """Return the subkeys of neurons found for answers: at each token's place, with what the token adds to the score."""
    places = q.token_places
    if places is None:
        raise ValueError(
            "value is of several right answers of several tokens, and its scores are no sum over positions:\n"
            "take the value neurons of one answer"
        )
    if value.token_score is None or value.token_coefficient is None or value.token_score.shape[1] != places.shape[1]:
        raise ValueError("value is of another target: take both from one tna.answer")
    prompt, token = (places >= 0).nonzero(as_tuple=True)
    at_tokens = Neurons(
        **{name: getattr(value, name)[prompt] for name in PLACE},
        coefficient=value.token_coefficient[prompt, token],
        score=value.token_score[prompt, token],
    )
    return subkeys(q.stream, at_tokens, q.places.select(places[prompt, token]), key, prompt)


def contributions(
    stream: Stream, rows: Subkeys, sites: Sequence[Site]
) -> Iterator[tuple[Sublayer, Subkeys, Float[Tensor, "batch neuron source"]]]:
    """Yield, for each sublayer below a value neuron, what its neurons contributed at each place read."""
    for depth in range(int(rows.depth.max()) if len(rows.depth) else 0):
        site = _BOTH[depth % 2]
        fed = rows if site == "mlp" else rows.only(rows.is_mlp)
        if site in sites and len(fed.depth) and depth < int(fed.depth.max()):
            sublayer, direction = stream.sublayer(site, depth // 2, fed.places), fed.above(depth)
            written = sublayer.project_onto(direction)
            additive_checks.require_neurons_add_up(stream, sublayer, direction, written)
            yield sublayer, fed, written


def _best(stream: Stream, rows: Subkeys, prompts: Int[Tensor, "batch"], sites: Sequence[Site], k: int) -> Neurons:
    """Return the best query neurons of some prompts."""
    everything = list(contributions(stream, rows, sites))
    sublayers = [sublayer for sublayer, _, _ in everything]
    totals = [_by_prompt(fed, c)[prompts].flatten(1) for _, fed, c in everything]
    scores = torch.cat(totals, dim=1) if totals else torch.zeros(len(prompts), 0).to(rows.u)
    additive_checks.require_finite(stream, scores, "the query scores")
    k = min(k, scores.shape[1])
    flat = torch.stack([best_of(row, k) for row in scores]) if k else scores.long()
    return Neurons.of_sublayers(
        sublayers,
        flat,
        coefficient=_coefficients(everything, prompts, flat).to(scores.dtype),
        score=scores.gather(1, flat),
    )


def _coefficients(
    everything: Sequence[tuple[Sublayer, Subkeys, Tensor]], prompts: Int[Tensor, "batch"], flat: Int[Tensor, "batch k"]
) -> Float[Tensor, "batch k"]:
    """Return each neuron's coefficient at the place where it contributed most."""
    found = torch.zeros(flat.shape, dtype=torch.float64, device=flat.device)
    where, neuron, source = locate([sublayer for sublayer, _, _ in everything], flat)
    for i, (sublayer, fed, contribution) in enumerate(everything):
        batch, column = (where == i).nonzero(as_tuple=True)
        n, s = neuron[batch, column], source[batch, column]
        others = fed.prompt[:, None] != prompts[batch][None]
        strongest = contribution[:, n, s].abs().masked_fill(others, -1).argmax(0)
        found[batch, column] = sublayer.coefficients[strongest, n, s].double()
    return found


def _warn(labels: list[str]) -> None:
    some = ", ".join(labels[:5]) + (" and more" if len(labels) > 5 else "")
    warnings.warn(
        f"the inner products of {some} with what feeds them nearly cancel, so their shares mean nothing: left out of "
        "the query scores",
        stacklevel=5,
    )


def _by_prompt(rows: Subkeys, values: Float[Tensor, "place *n"]) -> Float[Tensor, "batch *n"]:
    """Return values of places summed over those of each prompt."""
    return torch.zeros(rows.prompts, *values.shape[1:]).to(values).index_add(0, rows.prompt, values)


def _of_prompts(rows: Subkeys, prompts: Int[Tensor, "n"]) -> Subkeys:
    return rows.only(torch.isin(rows.prompt[rows.place], prompts))


def _prompts_within(max_bytes: int, stream: Stream, k: int, sites: Sequence[Site]) -> int:
    """Return how many prompts have the contributions of all their neurons in ``max_bytes``."""
    mlp = stream.neuron_count(("mlp",)) * min(k, stream.shape[1]) if "mlp" in sites else 0
    attn = stream.neuron_count(("attn",)) if "attn" in sites else 0
    return max(1, max_bytes // (3 * stream.dtype.itemsize * max(1, mlp + attn)))
