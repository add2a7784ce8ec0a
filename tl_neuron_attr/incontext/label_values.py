"""What a head copies from each label: label differences of value-output vectors (paper 2, Table 4; second-hand).

The value-output vector of position ``p`` in a head is ``W_O W_V norm(h_p)``; the weighted one is multiplied by the
head's attention from the last position. The paper compares labels by (second-hand)

    M = log p(a | vo) - log p(b | vo) = (e_a - e_b) . vo,         e the unembedding, the final norm frozen,

which is a plain logit difference, because the denominator of the softmax cancels (derived here).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.incontext.icl_batches import positions_of_labels
from tl_neuron_attr.incontext.icl_prompt import IclPrompt
from tl_neuron_attr.model.scored import as_scored
from tl_neuron_attr.model.scored_cache import ScoredCache
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.within import within
from tl_neuron_attr.numerics.sublayer import Sublayer

Prompts = IclPrompt | Sequence[IclPrompt]
"""The prompts from which a cache was made; one prompt for a cache of one."""


@typechecked
@torch.no_grad()
def label_logit_difference(
    cache: ActivationCache,
    prompts: Prompts,
    *,
    weighted: bool = True,
    pair: tuple[int, int] = (0, 1),
    model: Any = None,
) -> Float[Tensor, "*b layer head label"]:
    """Return logit(label a) - logit(label b) of each head's value-output vector at each label position, in nats.

    Vectors are read out with the final norm's scale frozen at the last position, before a softcap on logits if the
    model has one. The difference is positive if the head writes label a. This is the "logit minus" of the value-output
    experiment (paper 2, Table 4; second-hand). That it is a logit difference is derived here; that the final norm is
    frozen follows the authors' other notebooks.

    Args:
        cache: A cache of the prompts, with any padding on the left.
        prompts: The prompts in the order of the cache, all with the same number of demonstrations.
        weighted: Whether to multiply the vector by the head's attention from the last position.
        pair: The indices of the two labels to compare.
        model: The model that made the cache; ``cache.model`` by default.

    Raises:
        ValueError: If the cache holds other prompts or is refused, or ``pair`` names one label twice.
        IndexError: If a label of ``pair`` is out of range.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompts = tna.incontext.from_demo(model, tna.demo.in_context(2, 4))
        >>> batch = tna.incontext.batch_of(model, prompts)
        >>> _, cache = model.run_with_cache(batch.tokens)
        >>> by_label = label_logit_difference(cache, prompts)[0, 3, 7]  # L3H7 in the first prompt
        >>> [prompts[0].labels[label] for label in prompts[0].sequence]
        ['foo', 'bar', 'bar', 'foo']
        >>> ["foo" if difference > 0 else "bar" for difference in by_label.tolist()]
        ['foo', 'bar', 'bar', 'foo']
    """
    group = as_list(prompts)
    q, places = asked(cache, group, pair, model)
    direction = q.increase("attn", 0).direction
    found: list[Tensor] = []
    for sublayer in q.checked_sublayers(("attn",)):
        written = sublayer if weighted else _unweighted(q.stream, sublayer)
        by_head = written.project_onto(direction).unflatten(1, (sublayer.heads, -1)).sum(2)
        found.append(at_labels(by_head, places))
    return q.finish(torch.stack(found, dim=1))


@typechecked
@torch.no_grad()
def label_attention(
    cache: ActivationCache, prompts: Prompts, *, model: Any = None
) -> Float[Tensor, "*b layer head label"]:
    """Return each head's attention from the last position to each label position.

    Arguments and errors as in :func:`label_logit_difference`.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompt = tna.incontext.from_demo(model, tna.demo.in_context(1, 4))[0]
        >>> _, cache = model.run_with_cache(tna.incontext.batch_of(model, [prompt]).tokens)
        >>> bool((label_attention(cache, prompt) <= 1).all())
        True
    """
    q, places = asked(cache, as_list(prompts), (0, 1), model)
    rows = [at_labels(last_attention(q.stream, layer), places) for layer in range(q.stream.n_layers)]
    return q.finish(torch.stack(rows, dim=1))


def as_list(prompts: Prompts) -> Sequence[IclPrompt]:
    """Return the prompts as a sequence."""
    return [prompts] if isinstance(prompts, IclPrompt) else prompts


def asked(
    cache: ActivationCache, prompts: Sequence[IclPrompt], pair: tuple[int, int], model: Any
) -> tuple[ScoredCache, Int[Tensor, "batch label"]]:
    """Return a scored cache of two labels, and the positions of the prompts' labels in it.

    Raises:
        ValueError: If the cache holds other prompts or is refused.
        IndexError: If a label is out of range.
    """
    if not prompts:
        raise ValueError("prompts is empty: give the prompts the cache was made of")
    for label in pair:
        within("pair", label, len(prompts[0].labels))
    if pair[0] == pair[1]:
        raise ValueError(f"pair must be two different labels, got {pair}")
    first, second = (prompts[0].label_ids[label] for label in pair)
    q = as_scored(cache, first, ("attn",), contrast=second, model=model)
    return q, positions_of_labels(q.stream, prompts)


def last_attention(stream: Stream, layer: int) -> Float[Tensor, "batch head source"]:
    """Return a layer's attention from the last position."""
    return stream.pattern(layer)[:, :, -1]


def at_labels(
    by_source: Float[Tensor, "batch head source"], places: Int[Tensor, "batch label"]
) -> Float[Tensor, "batch head label"]:
    """Return the values at label positions, from those at all source positions."""
    return by_source.gather(2, places[:, None].expand(-1, by_source.shape[1], -1))


def _unweighted(stream: Stream, sublayer: Sublayer) -> Sublayer:
    """Return the sublayer as if every head attended to every position with a weight of one."""
    values = stream.attn_values(sublayer.layer, stream.last)
    return replace(sublayer, coefficients=values.flatten(1, 2))
