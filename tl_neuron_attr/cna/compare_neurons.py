"""Comparative neuron analysis: the same neurons in two runs, and what the change did to a prediction (paper 3, CNA).

    change = increase in the one run - increase in the other,
    increase(v) = log p(w | h + v) - log p(w | h)

where ``h`` and ``v`` are each run's own, while both are read out with the first run's final norm frozen and for the
same token, as the authors' code does. The second run may be of the same model with a head zeroed, of the same model on
another prompt, or of another model: fine-tuned, pruned, with an adapter.
"""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.cna.neuron_comparison import SHOWN_NEURONS, NeuronComparison
from tl_neuron_attr.knowledge.vocabulary import neuron_text
from tl_neuron_attr.model import cache_checks, dimensions
from tl_neuron_attr.model.positions import Pos
from tl_neuron_attr.model.scored_cache import ScoredCache, as_scored, checked_stream
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.targets import Target
from tl_neuron_attr.numerics.every_neuron import neuron_scores
from tl_neuron_attr.numerics.increase import MAX_BYTES
from tl_neuron_attr.numerics.sublayer import Site
from tl_neuron_attr.results.neuron_text import NeuronText
from tl_neuron_attr.results.neurons import COLUMNS, Neurons

_WORTH_TEXT = 100
"""How many neurons of the largest and of the smallest change have their tokens read out: all that a frame shows by
default. Those of every neuron would cost more than the comparison."""


@typechecked
@torch.no_grad()
def compare_neurons(
    cache: ActivationCache,
    other: ActivationCache,
    target: Target,
    *,
    site: Site = "mlp",
    pos: Pos = -1,
    contrast: Target | None = None,
    model: Any = None,
    other_model: Any = None,
    max_bytes: int = MAX_BYTES,
) -> NeuronComparison:
    """Return every neuron's increase of log p(target) in two runs, and its change (paper 3, the CNA score).

    The runs may differ in model, intervention or tokens, not in the shape of the model nor in that of the prompts: row
    ``b`` of the one is compared with row ``b`` of the other, at the same position.

    Args:
        cache: The run the change is counted from; its final norm, frozen, reads both runs out.
        other: The run it is compared with.
        target: The token followed: an id, a string that is one token, or one of them for each prompt.
        site: MLP or attention neurons.
        pos: The position scored in both runs; the last by default.
        contrast: If given, increases are of ``log p(target) - log p(contrast)``.
        model: The model that made ``cache``; ``cache.model`` by default.
        other_model: The model that made ``other``; ``other.model`` by default.
        max_bytes: A cap on the working set, results not counted.

    Returns:
        ``.change``, ``.increase``, ``.other_increase`` (nats), ``.coefficient``, ``.other_coefficient``:
        ``Float["*b layer d_mlp"]``, or ``Float["*b layer head source d_head"]`` for attention neurons.

    Raises:
        ValueError: If the caches differ in shape, the two tokenizers do not share a token, or as
            :func:`~tl_neuron_attr.attribute_mlp_neurons`.
        IndexError: If a position or token id is out of range.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> _, cache = model.run_with_cache("3 + 5 =")
        >>> with tna.ablate(model, [(3, 2)]):
        ...     _, without = model.run_with_cache("3 + 5 =")
        >>> found = compare_neurons(cache, without, "8")
        >>> found.top(1).labels
        [['L4N122']]
    """
    mine = as_scored(cache, target, (site,), pos=pos, contrast=contrast, model=model)
    found = _compared(mine, other, site, pos, other_model, max_bytes)
    return replace(found, text=_text(mine.stream, found))


@torch.no_grad()
def compare_without_text(
    cache: ActivationCache,
    other: ActivationCache,
    target: Target,
    *,
    site: Site = "mlp",
    contrast: Target | None = None,
) -> NeuronComparison:
    """Return :func:`compare_neurons` without tokens: for what runs over many cases and shows none of them."""
    return _compared(as_scored(cache, target, (site,), contrast=contrast), other, site, -1, None, MAX_BYTES)


def _compared(
    mine: ScoredCache, other: ActivationCache, site: Site, pos: Pos, other_model: Any, max_bytes: int
) -> NeuronComparison:
    stream = Stream(other, other_model)
    cache_checks.require_hooks(stream, (site,))
    _require_alike(mine.stream, stream, site)
    for tokens, name in ((mine.target, "target"), (mine.contrast, "contrast")):
        if tokens is not None:
            require_shared(mine.stream.model, stream.model, tokens, name)
    _, places, _ = checked_stream(other, (site,), pos=pos, model=other_model)
    theirs = replace(mine, stream=stream, places=places)
    increase, coefficient = _scored(mine, site, max_bytes)
    other_increase, other_coefficient = _scored(theirs, site, max_bytes)
    return NeuronComparison(
        site,
        mine.finish(increase),
        mine.finish(other_increase),
        mine.finish(coefficient),
        mine.finish(other_coefficient),
        batched=mine.stream.batched,
    )


def _text(stream: Stream, found: NeuronComparison) -> NeuronText:
    """Return the text of the neurons of the largest and smallest change: of all cases summed, and of each case."""
    whole = found.summed()
    n = whole.increase.numel()
    shown = [whole.top(min(_WORTH_TEXT, n), largest=largest) for largest in (True, False)]
    shown += [found.top(min(SHOWN_NEURONS, n), largest=largest).flattened() for largest in (True, False)]
    columns: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in shown]) for name in COLUMNS}
    return neuron_text(stream.model, Neurons(**columns), stream.tokens())


def _scored(
    q: ScoredCache, site: Site, max_bytes: int
) -> tuple[Float[Tensor, "batch layer *neuron"], Float[Tensor, "batch layer *neuron"]]:
    """Return increases and coefficients of every neuron."""
    scores: list[Tensor] = []
    coefficients: list[Tensor] = []
    for sublayer in q.checked_sublayers((site,)):
        for into, values in (
            (scores, neuron_scores(q.increase(site, sublayer.layer), sublayer, max_bytes=max_bytes)),
            (coefficients, sublayer.coefficients),
        ):
            by_head = values.unflatten(1, (sublayer.heads, -1)).transpose(2, 3)
            into.append(by_head if site == "attn" else values[..., 0])
    increase = torch.stack(scores, dim=1)
    cache_checks.require_finite(q.stream, increase, "the scores")
    return increase, torch.stack(coefficients, dim=1)


def _require_alike(mine: Stream, theirs: Stream, site: Site) -> None:
    """Refuse runs whose neurons or prompts do not correspond."""

    def facts(stream: Stream) -> dict[str, object]:
        batch, length, d_model = stream.shape
        widths = [dimensions.width(stream.model, site, layer) for layer in range(stream.n_layers)]
        return {
            "layers": stream.n_layers,
            "d_model": d_model,
            "MLP neurons by layer" if site == "mlp" else "heads and head dimensions by layer": widths,
            "vocabulary": dimensions.d_vocab(stream.model),
            "prompts": batch,
            "tokens per prompt": length,
            "a batch dimension": stream.batched,
        }

    ours, others = facts(mine), facts(theirs)
    for name, value in ours.items():
        if value != others[name]:
            raise ValueError(
                f"cache and other cannot be compared neuron by neuron: {name}: {value} in cache, {others[name]} in "
                "other"
            )


def require_shared(model: Any, other: Any, tokens: Int[Tensor, "batch"], name: str) -> None:
    """Refuse a token that stands for something else in the other model's vocabulary."""
    if model is other or model.tokenizer is None or other.tokenizer is None:
        return
    for token in tokens.unique().tolist():
        text, other_text = (tokenizer.convert_ids_to_tokens(token) for tokenizer in (model.tokenizer, other.tokenizer))
        if text != other_text:
            raise ValueError(
                f"{name} {token} is {text!r} to cache's tokenizer and {other_text!r} to other's: they do not share it"
            )
