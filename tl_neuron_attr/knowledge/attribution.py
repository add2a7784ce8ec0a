"""The log-probability increase of layers, heads, source positions and neurons (paper 1, Eq. 13), exactly.

Every function reads the same cache at the same position and differs only in what it calls one contribution. Scores are
in nats, float32 (float64 if the model is), on the model's device.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.model import cache_checks
from tl_neuron_attr.model.positions import Pos
from tl_neuron_attr.model.scored_cache import Question, ask
from tl_neuron_attr.model.targets import Target
from tl_neuron_attr.numerics.every_neuron import neuron_scores
from tl_neuron_attr.numerics.increase import MAX_BYTES
from tl_neuron_attr.numerics.sublayer import Site, Sublayer
from tl_neuron_attr.results.layer_scores import LayerScores


@typechecked
@torch.no_grad()
def attribute_layers(
    cache: ActivationCache,
    target: Target,
    *,
    pos: Pos = -1,
    contrast: Target | None = None,
    model: Any = None,
    final_bias: bool = True,
    max_bytes: int = MAX_BYTES,
) -> LayerScores:
    """How much each attention and MLP sublayer, biases included, raises log p(target), in nats (paper 1, Eq. 13).

    Args:
        cache: A cache of a forward pass, with or without a batch dimension.
        target: The token followed: an id, a string that is one token, or one of them a prompt.
        pos: The position scored, one for all prompts or one each; the last by default.
        contrast: If given, scores are of ``log p(target) - log p(contrast)``.
        model: The model that made the cache; ``cache.model`` by default.
        final_bias: False leaves the final norm's bias out of the base, as the authors' GPT-2 notebook does.
        max_bytes: A cap on the working set.

    Returns:
        ``.attn`` and ``.mlp``: ``Float["*b layer"]``; ``*b`` is absent for a cache without a batch dimension.

    Raises:
        ValueError: If the cache or the target will not do; see :mod:`tl_neuron_attr.model.cache_checks` and
            :mod:`tl_neuron_attr.model.targets`.
        IndexError: If a position or token id is out of range.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> _, cache = model.run_with_cache("Tim Duncan plays the sport of")
        >>> tna.attribute_layers(cache, " basketball").mlp.shape[-1] == model.cfg.n_layers
        True
    """
    q = ask(cache, target, (), pos=pos, contrast=contrast, model=model, final_bias=final_bias)

    def scores(site: Site) -> Float[Tensor, "*b layer"]:
        layers = range(q.stream.n_layers)
        outs = (
            q.increase(site, i).of_vectors(q.stream.out(site, i, q.places)[:, None], max_bytes=max_bytes)
            for i in layers
        )
        return q.finish(torch.cat(list(outs), dim=1))

    return LayerScores(attn=scores("attn"), mlp=scores("mlp"))


@typechecked
@torch.no_grad()
def attribute_heads(
    cache: ActivationCache,
    target: Target,
    *,
    pos: Pos = -1,
    contrast: Target | None = None,
    model: Any = None,
    final_bias: bool = True,
    max_bytes: int = MAX_BYTES,
) -> Float[Tensor, "*b layer head"]:
    """How much each attention head raises log p(target), in nats (paper 1, Eq. 13 with ``v`` a head's output).

    A head writes ``z @ W_O``; the attention bias belongs to no head. Compatibility mode moves value biases out of the
    heads into that bias, so head scores differ between modes wherever a model has value biases.

    Arguments and errors as in :func:`attribute_layers`.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> tna.attribute_heads(cache, " basketball").ndim  # batch, layer, head
        3
    """
    q = ask(cache, target, ("attn",), pos=pos, contrast=contrast, model=model, final_bias=final_bias)
    return q.finish(_each_layer(q, "attn", lambda s: s.head_writes().sum(2), max_bytes))


@typechecked
@torch.no_grad()
def attribute_head_positions(
    cache: ActivationCache,
    target: Target,
    *,
    pos: Pos = -1,
    contrast: Target | None = None,
    model: Any = None,
    final_bias: bool = True,
    max_bytes: int = MAX_BYTES,
) -> Float[Tensor, "*b layer head source"]:
    """How much each head raises log p(target) by what it reads at each source position, in nats.

    Paper 1, Eq. 13 with ``v`` one weighted value-output vector of Eq. 7. Arguments and errors as in
    :func:`attribute_layers`.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> tna.attribute_head_positions(cache, " basketball").shape[-1]  # <bos> and six tokens
        7
    """
    q = ask(cache, target, ("attn",), pos=pos, contrast=contrast, model=model, final_bias=final_bias)
    return q.finish(_each_layer(q, "attn", Sublayer.head_writes, max_bytes))


@typechecked
@torch.no_grad()
def attribute_mlp_neurons(
    cache: ActivationCache,
    target: Target,
    *,
    pos: Pos = -1,
    contrast: Target | None = None,
    model: Any = None,
    layers: Sequence[int] | None = None,
    final_bias: bool = True,
    max_bytes: int = MAX_BYTES,
) -> Float[Tensor, "*b layer d_mlp"]:
    """How much each MLP neuron raises log p(target), in nats: every neuron, exactly (paper 1, Eq. 5 and 13).

    Arguments and errors as in :func:`attribute_layers`; ``layers`` restricts the work, in the order given.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> scores = tna.attribute_mlp_neurons(cache, " basketball", layers=[3])
        >>> scores.shape[:2]
        torch.Size([1, 1])
    """
    q = ask(cache, target, ("mlp",), pos=pos, contrast=contrast, model=model, final_bias=final_bias)
    return q.finish(_every_neuron(q, "mlp", layers, max_bytes)[..., 0])


@typechecked
@torch.no_grad()
def attribute_attn_neurons(
    cache: ActivationCache,
    target: Target,
    *,
    pos: Pos = -1,
    contrast: Target | None = None,
    model: Any = None,
    layers: Sequence[int] | None = None,
    final_bias: bool = True,
    max_bytes: int = MAX_BYTES,
) -> Float[Tensor, "*b layer head source d_head"]:
    """How much each attention neuron raises log p(target) from each source, in nats: every one, exactly.

    Paper 1, Eq. 7 and 13: attention neuron ``k`` of a head is row ``k`` of its ``W_O``. Arguments and errors as in
    :func:`attribute_mlp_neurons`.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> tna.attribute_attn_neurons(cache, " basketball", layers=[3]).ndim
        5
    """
    q = ask(cache, target, ("attn",), pos=pos, contrast=contrast, model=model, final_bias=final_bias)
    scores = _every_neuron(q, "attn", layers, max_bytes)
    heads = q.stream.sublayer("attn", 0, q.places).heads
    return q.finish(scores.unflatten(2, (heads, -1)).transpose(3, 4))


def _each_layer(
    q: Question, site: Site, vectors: Callable[[Sublayer], Float[Tensor, "batch *n d_model"]], max_bytes: int
) -> Float[Tensor, "batch layer *n"]:
    scores: list[Tensor] = []
    for sublayer in q.checked_sublayers((site,)):
        scores.append(q.increase(site, sublayer.layer).of_vectors(vectors(sublayer), max_bytes=max_bytes))
    return torch.stack(scores, dim=1)


def _every_neuron(
    q: Question, site: Site, layers: Iterable[int] | None, max_bytes: int
) -> Float[Tensor, "batch layer neuron source"]:
    wanted = list(range(q.stream.n_layers) if layers is None else layers)
    scores: list[Tensor] = []
    for sublayer in q.checked_sublayers((site,), wanted):
        scores.append(neuron_scores(q.increase(site, sublayer.layer), sublayer, max_bytes=max_bytes))
    stacked = torch.stack(scores, dim=1)
    cache_checks.require_finite(q.stream, stacked, "the scores")
    return stacked
