"""The log-probability increase of layers, heads, source positions and neurons (paper 1, Eq. 13), exactly.

Every function reads the same cache at the same position and differs only in what it calls one contribution. Scores are
in nats, float32 (float64 if the model is), on the model's device.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad
from tqdm.auto import tqdm
from transformer_lens import ActivationCache
from typing_extensions import Unpack

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.model.components import Head
from tl_neuron_attr.model.scored import as_scored
from tl_neuron_attr.model.scored_cache import ScoredCache, Scoring
from tl_neuron_attr.model.targets import Target
from tl_neuron_attr.numerics.every_neuron import neuron_scores
from tl_neuron_attr.numerics.increase import MAX_BYTES, WIDTH, Increase, read_out, target_log_probs
from tl_neuron_attr.numerics.scores_of_vectors import scores_of_vectors
from tl_neuron_attr.numerics.sublayer import SITES, Site, Sublayer
from tl_neuron_attr.results.layer_scores import LayerScores


@typechecked
@torch.no_grad()
def attribute_layers(
    cache: ActivationCache | ScoredCache,
    target: Target | None = None,
    *,
    max_bytes: int = MAX_BYTES,
    **scoring: Unpack[Scoring],
) -> LayerScores:
    """Return how much each attention and MLP sublayer, biases included, raises log p(target), in nats.

    Paper 1, Eq. 13 with ``v`` the output of a sublayer: the terms of Eq. 1 and, for attention, the sum of Eq. 3.

    Args:
        cache: A cache of a forward pass, with or without a batch dimension; or what :func:`~tl_neuron_attr.scored`
            made of it, which has its own target and scoring.
        target: The token followed: an id, a string that is one token, or one of them per prompt.
        max_bytes: A cap on the working set; one prompt's base distributions are held at the least.
        **scoring: ``pos``, ``contrast``, ``model``, ``final_bias``: see :func:`~tl_neuron_attr.scored`.

    Returns:
        ``.attn`` and ``.mlp``: ``Float["*b layer"]``; ``*b`` is absent for a cache without a batch dimension.

    Raises:
        ValueError: If the cache or the target is invalid; see :mod:`tl_neuron_attr.model.cache_checks` and
            :mod:`tl_neuron_attr.model.targets`.
        IndexError: If a position or token id is out of range.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> layers = tna.attribute_layers(cache, " basketball")
        >>> f"L{int(layers.mlp.argmax())}"  # the MLP sublayer that says basketball
        'L1'
    """
    q = _scored(cache, target, (), max_bytes, scoring)
    scores = None if q.keeps else _in_passing(q, max_bytes)
    if scores is None:
        scores = _scores(q, SITES, None, max_bytes, _sublayer_scores)
    return LayerScores(attn=scores[..., ::2], mlp=scores[..., 1::2])


@typechecked
@torch.no_grad()
def attribute_heads(
    cache: ActivationCache | ScoredCache,
    target: Target | None = None,
    *,
    max_bytes: int = MAX_BYTES,
    **scoring: Unpack[Scoring],
) -> Float[Tensor, "*b layer head"]:
    """Return how much each attention head raises log p(target), in nats.

    Paper 1, Eq. 13 with ``v`` a head's output, one term of Eq. 3.

    Layers that mix positions otherwise than by softmax attention have no heads; their rows are zeros, and
    :func:`attribute_layers` has what they wrote as a whole.

    A head writes ``z @ W_O``; the attention bias belongs to no head. Compatibility mode moves value biases out of the
    heads into that bias, so head scores differ between modes wherever a model has value biases.

    Arguments and errors as in :func:`attribute_layers`.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> tna.attribute_heads(cache, " basketball").ndim  # batch, layer, head
        3
    """
    return _of_heads(_scored(cache, target, ("attn",), max_bytes, scoring), _summed, max_bytes)


@typechecked
@torch.no_grad()
def attribute_head_positions(
    cache: ActivationCache | ScoredCache,
    target: Target | None = None,
    *,
    max_bytes: int = MAX_BYTES,
    **scoring: Unpack[Scoring],
) -> Float[Tensor, "*b layer head source"]:
    """Return how much each head raises log p(target) by what it reads at each source position, in nats.

    Paper 1, Eq. 13 with ``v`` one weighted value-output vector of Eq. 7. Arguments and errors as in
    :func:`attribute_layers`.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> tna.attribute_head_positions(cache, " basketball").shape[-1]  # <bos> and six tokens
        7
    """
    return _of_heads(_scored(cache, target, ("attn",), max_bytes, scoring), Sublayer.head_writes, max_bytes)


@torch.no_grad()
def source_scores_of_heads(
    q: ScoredCache, heads: Sequence[Head], *, max_bytes: int = MAX_BYTES
) -> dict[Head, Float[Tensor, "source"]]:
    """Return what :func:`attribute_head_positions` gives for some heads of a single place, and compute no other's."""
    layers = sorted({layer for layer, _ in heads})
    if not layers:
        return {}
    by_layer = [[at for at in heads if at[0] == layer] for layer in layers]
    sublayers = q.checked_sublayers(("attn",), layers)
    written = [_writes_of(s, [head for _, head in own]) for s, own in zip(sublayers, by_layer, strict=True)]
    scores = scores_of_vectors(q.increases(("attn",), layers), written, max_bytes=max_bytes)
    named = zip((at for own in by_layer for at in own), (row for own in scores for row in own[0]), strict=True)
    return dict(named)


@typechecked
@torch.no_grad()
def attribute_mlp_neurons(
    cache: ActivationCache | ScoredCache,
    target: Target | None = None,
    *,
    layers: Sequence[int] | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool = True,
    **scoring: Unpack[Scoring],
) -> Float[Tensor, "*b layer d_mlp"]:
    """Return how much each MLP neuron raises log p(target), in nats: every neuron, exactly.

    Paper 1, Eq. 13 with ``v`` one term of Eq. 5: the coefficient of Eq. 6 times a row of ``W_out``.

    Arguments and errors as in :func:`attribute_layers`; ``layers`` restricts the work, in the order given;
    ``progress`` shows a bar with the time left of work longer than two seconds.

    In a mixture of experts the last axis holds the neurons of expert 0, of expert 1, ..., then of a shared expert;
    those of experts that the token was not routed to score exactly zero. Where layers differ in width, narrower ones
    are filled up with zeros.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> scores = tna.attribute_mlp_neurons(cache, " basketball", layers=[3])
        >>> scores.shape[:2]
        torch.Size([1, 1])
    """
    q = as_scored(cache, target, ("mlp",), max_bytes=max_bytes, **scoring)
    return _scores(q, ("mlp",), layers, max_bytes, partial(_every_neuron, "mlp", layers, progress))[..., 0, :, 0]


@typechecked
@torch.no_grad()
def attribute_attn_neurons(
    cache: ActivationCache | ScoredCache,
    target: Target | None = None,
    *,
    layers: Sequence[int] | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool = True,
    **scoring: Unpack[Scoring],
) -> Float[Tensor, "*b layer head source d_head"]:
    """Return how much each attention neuron raises log p(target) from each source, in nats: every one, exactly.

    Paper 1, Eq. 7 and 13: attention neuron ``k`` of a head is row ``k`` of its ``W_O``. Arguments and errors as in
    :func:`attribute_mlp_neurons`.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> tna.attribute_attn_neurons(cache, " basketball", layers=[3]).ndim
        5
    """
    q = as_scored(cache, target, ("attn",), max_bytes=max_bytes, **scoring)
    return _scores(q, ("attn",), layers, max_bytes, partial(_every_neuron, "attn", layers, progress)).transpose(-1, -2)


def _scores(
    q: ScoredCache,
    sites: Sequence[Site],
    layers: Sequence[int] | None,
    max_bytes: int,
    of_places: Callable[[ScoredCache, list[Increase], int], Float[Tensor, "place n *m"]],
) -> Float[Tensor, "*b_n"]:
    """Return what ``of_places`` gives, some places at a time, added up to the user's results."""
    found: list[Tensor] = []
    base: list[Tensor] = []
    scored = len(sites) * (q.stream.n_layers if layers is None else len(layers))
    for group in q.groups(max_bytes, sublayers=scored):
        increases = group.increases(sites, layers)
        found.append(of_places(group, increases, max_bytes))
        if not q.additive:
            base.append(torch.stack([each.target_log_p() for each in increases], dim=1))
    return q.finish(torch.cat(found), torch.cat(base) if base else None)


def _sublayer_scores(q: ScoredCache, increases: list[Increase], max_bytes: int) -> Float[Tensor, "place n"]:
    """Return scores of whole sublayers, in the order of the stream.

    What a sublayer read plus what it wrote is what the next one read, bit for bit, unless blocks are parallel or the
    cache is of half precision. There the score is a difference of two base log-probabilities, and costs no product.
    """
    outs, following = _outs(q), [*increases[1:], q.final()]
    chained = _chained(increases, outs, following)
    read_out([*increases, *(following[-1:] if chained[-1] else ())])
    rest = [i for i, is_chained in enumerate(chained) if not is_chained]
    scores = [
        (after.target_log_p() - each.target_log_p()).to(each.base.dtype)[:, None] if is_chained else each.base[:, :1]
        for each, after, is_chained in zip(increases, following, chained, strict=True)
    ]
    if rest:
        found = scores_of_vectors([increases[i] for i in rest], [outs[i][:, None] for i in rest], max_bytes=max_bytes)
        for i, score in zip(rest, found, strict=True):
            scores[i] = score
    return torch.cat(scores, dim=1)


def _outs(q: ScoredCache) -> list[Float[Tensor, "place d_model"]]:
    return [q.stream.out(site, layer, q.places) for layer in range(q.stream.n_layers) for site in SITES]


def _chained(increases: list[Increase], outs: list[Tensor], following: list[Increase]) -> list[bool]:
    """Return of each sublayer whether the next one read what it read plus what it wrote, bit for bit."""
    return [
        each.contrast is None and torch.equal(each.base + out, after.base)
        for each, out, after in zip(increases, outs, following, strict=True)
    ]


def _in_passing(q: ScoredCache, max_bytes: int) -> Float[Tensor, "*b_n"] | None:
    """Return scores of whole sublayers without keeping the logits of any stream; None where not all are chained."""
    if not q.additive:
        return None
    numbers = 2 * q.stream.n_layers * (q.stream.shape[2] + 4 * WIDTH)  # a stream, and temporaries of a chunk's size
    found: list[Tensor] = []
    for group in q.groups_of(max(1, max_bytes // (numbers * q.stream.dtype.itemsize))):
        streams = [*group.increases(SITES), group.final()]
        if not all(_chained(streams[:-1], _outs(group), streams[1:])):
            return None
        log_probs = torch.stack(target_log_probs(streams), dim=1)
        found.append(log_probs.diff(dim=1).to(q.stream.dtype))
    return q.finish(torch.cat(found))


def _scored(
    cache: ActivationCache | ScoredCache, target: Target | None, sites: Sequence[Site], max_bytes: int, scoring: Scoring
) -> ScoredCache:
    """Return a scored cache; the caller's own, which other calls may follow on, is read out for them too."""
    q = as_scored(cache, target, sites, max_bytes=max_bytes, **scoring)
    if q is cache:
        q.read_at_once(max_bytes)
    return q


def _of_heads(
    q: ScoredCache, vectors: Callable[[Sublayer], Float[Tensor, "batch *n d_model"]], max_bytes: int
) -> Tensor:
    """Return scores of what heads wrote, all layers in one pass over ``W_U``."""

    def of_places(group: ScoredCache, increases: list[Increase], max_bytes: int) -> Float[Tensor, "place layer *n"]:
        written = [vectors(sublayer) for sublayer in group.checked_sublayers(("attn",))]
        return _stacked(scores_of_vectors(increases, written, max_bytes=max_bytes), 1)

    return _scores(q, ("attn",), None, max_bytes, of_places)


def _writes_of(sublayer: Sublayer, heads: list[int]) -> Float[Tensor, "batch head source d_model"]:
    """Return what some heads wrote from each source; zeros for those that a narrower layer, or a mixer, lacks."""
    every = sublayer.head_writes()
    missing = every.new_zeros(len(every), max(0, max(heads) + 1 - every.shape[1]), *every.shape[2:])
    return torch.cat([every, missing], dim=1)[:, heads]


def _summed(sublayer: Sublayer) -> Float[Tensor, "batch head d_model"]:
    return sublayer.head_writes().sum(2)


def _every_neuron(
    site: Site,
    layers: Sequence[int] | None,
    progress: bool,
    q: ScoredCache,
    increases: list[Increase],
    max_bytes: int,
) -> Float[Tensor, "place layer head d_head source"]:
    sublayers = list(q.checked_sublayers((site,), layers))
    read_out(increases)
    pairs = tqdm([*zip(increases, sublayers, strict=True)], "neurons", unit="layer", disable=not progress, delay=2)
    scores = [neuron_scores(increase, sublayer, max_bytes=max_bytes) for increase, sublayer in pairs]
    return _stacked([own.unflatten(1, (s.heads, -1)) for own, s in zip(scores, sublayers, strict=True)], 2)


def _stacked(scores: Sequence[Tensor], widths: int) -> Tensor:
    """Return scores of layers in one tensor, the ``widths`` axes behind the first filled up with zeros."""
    widest = [max(each.shape[1 + axis] for each in scores) for axis in range(widths)]

    def filled_up(each: Tensor) -> Tensor:
        short = [(0, widest[axis] - each.shape[1 + axis]) for axis in range(widths)]
        behind = [(0, 0)] * (each.ndim - 1 - widths)
        return pad(each, [n for pair in (*reversed(behind), *reversed(short)) for n in pair])

    return torch.stack([filled_up(each) for each in scores], dim=1)
