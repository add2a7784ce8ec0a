"""The neurons of the largest change between two runs, certified, without scoring every neuron (paper 3, 3.3).

:func:`~tl_neuron_attr.compare_neurons` scores every neuron of both runs, which on a large vocabulary takes hundreds of
forward passes. Where only the most changed ones are wanted, bounds tell which neurons need no scoring.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformer_lens import ActivationCache

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.cna.compare_neurons import other_run
from tl_neuron_attr.knowledge.value_neurons import neurons_of
from tl_neuron_attr.knowledge.vocabulary import with_text
from tl_neuron_attr.model import additive_checks
from tl_neuron_attr.model.positions import Pos
from tl_neuron_attr.model.scored import as_scored
from tl_neuron_attr.model.scored_cache import ScoredCache, Scoring
from tl_neuron_attr.model.targets import Target
from tl_neuron_attr.numerics.increase import MAX_BYTES
from tl_neuron_attr.numerics.sublayer import Site
from tl_neuron_attr.numerics.topk_of_change import certified_topk_of_change
from tl_neuron_attr.results.neurons import Neurons


@typechecked
@torch.no_grad()
def changed_neurons(
    cache: ActivationCache | ScoredCache,
    other: ActivationCache,
    target: Target | None = None,
    k: int = 30,
    *,
    site: Site = "mlp",
    layers: Sequence[int] | None = None,
    largest: bool = True,
    pos: Pos | None = None,
    contrast: Target | None = None,
    model: Any = None,
    other_model: Any = None,
    text: bool = True,
    max_bytes: int = MAX_BYTES,
) -> Neurons:
    """Return the ``k`` neurons whose increase of log p(target) is larger in one run than in another, by how much.

    It is what ``compare_neurons(...).top(k)`` gives, exact and certified, at a fraction of the cost. Attention neurons
    count once for each source.

    Args:
        cache: The run the change is counted from; its final norm, frozen, reads both runs out. Or what
            :func:`~tl_neuron_attr.scored` or :func:`~tl_neuron_attr.answer` made of it: ``other`` is then a run on the
            same tokens, ``cache.stream.tokens()``.
        other: The run it is compared with.
        target: The token followed: an id, a string that is one token, the answer the cache's text ends with
            (:class:`~tl_neuron_attr.Answer`), or one of them for each prompt.
        k: How many neurons.
        site: MLP or attention neurons.
        layers: The layers searched; all by default.
        largest: False for the neurons that raise the token more in the other run: the change is negative.
        pos: The position scored in both runs; the last by default.
        contrast: If given, increases are of ``log p(target) - log p(contrast)``.
        model: The model that made ``cache``; ``cache.model`` by default.
        other_model: The model that made ``other``; ``other.model`` by default.
        text: False leaves out the tokens that the neurons read and promote.
        max_bytes: A cap on the working set.

    Returns:
        The neurons; ``.score`` is the change in nats, ``.coefficient`` that of ``cache``; of an answer, where the
        change is largest, and ``.per_token`` is what each token adds.

    Raises:
        ValueError: If ``k`` is not between 1 and the number of neurons, or as
            :func:`~tl_neuron_attr.compare_neurons`.
        IndexError: If a position, token id or layer is out of range, or a layer is named twice.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> _, cache = model.run_with_cache("3 + 5 =")
        >>> with tna.ablate(model, [(3, 2)]):
        ...     _, without = model.run_with_cache("3 + 5 =")
        >>> changed_neurons(cache, without, "8", k=1).labels
        ['L4N122']
    """
    scoring: Scoring = {"contrast": contrast, "model": model}
    if pos is not None:
        scoring["pos"] = pos
    mine = as_scored(cache, target, (site,), **scoring)
    theirs = other_run(mine, other, site, other_model)
    sublayers = list(mine.checked_sublayers((site,), layers))
    available = sum(sublayer.coefficients[0].numel() for sublayer in sublayers)
    if not 1 <= k <= available:
        raise ValueError(f"k must be between 1 and the {available} {site} neurons, got {k}")
    first = (mine.increases((site,), layers), sublayers)
    second = (theirs.increases((site,), layers), list(theirs.checked_sublayers((site,), layers)))
    before, after = (first, second) if largest else (second, first)
    found = certified_topk_of_change(before, after, k, sums=mine.sums, max_bytes=max_bytes)
    if not largest:
        assert found.by_place is not None
        found = replace(found, score=-found.score, by_place=-found.by_place)
    neurons = neurons_of(mine, sublayers, found)
    additive_checks.require_finite(mine.stream, neurons.score, "the scores")
    best = with_text(neurons, mine.stream) if text else neurons
    return best.squeeze(batched=mine.batched)
