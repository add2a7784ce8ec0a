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
from tqdm.auto import tqdm
from transformer_lens import ActivationCache

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.cna.neuron_comparison import SHOWN_NEURONS, NeuronComparison
from tl_neuron_attr.knowledge.vocabulary import neuron_text
from tl_neuron_attr.model import additive_checks, cache_checks, dimensions
from tl_neuron_attr.model.positions import Pos
from tl_neuron_attr.model.scored import as_scored, checked_stream, refuse_given, same_places
from tl_neuron_attr.model.scored_cache import ScoredCache
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.targets import Target
from tl_neuron_attr.numerics.every_neuron import neuron_scores
from tl_neuron_attr.numerics.increase import MAX_BYTES
from tl_neuron_attr.numerics.sublayer import Site
from tl_neuron_attr.results.neuron_columns import COLUMNS
from tl_neuron_attr.results.neuron_text import NeuronText
from tl_neuron_attr.results.neurons import Neurons

_WORTH_TEXT = 100
"""How many neurons of the largest and of the smallest change have their tokens read out: all that a frame shows by
default. Those of every neuron would cost more than the comparison."""


@typechecked
@torch.no_grad()
def compare_neurons(
    cache: ActivationCache | ScoredCache,
    other: ActivationCache,
    target: Target | None = None,
    *,
    site: Site = "mlp",
    pos: Pos | None = None,
    contrast: Target | None = None,
    model: Any = None,
    other_model: Any = None,
    max_bytes: int = MAX_BYTES,
    progress: bool = True,
) -> NeuronComparison:
    """Return every neuron's increase of log p(target) in two runs, and its change (paper 3, the CNA score).

    The runs may differ in model, intervention or tokens, not in the shape of the model nor in that of the prompts: row
    ``b`` of the one is compared with row ``b`` of the other, at the same position.

    Args:
        cache: The run the change is counted from; its final norm, frozen, reads both runs out. Or what
            :func:`~tl_neuron_attr.scored` or :func:`~tl_neuron_attr.answer` made of it: ``other`` is then a run on the
            same tokens, ``cache.stream.tokens()``. Of an answer, coefficients are those at the position of its largest
            increase.
        other: The run it is compared with.
        target: The token followed: an id, a string that is one token, or one of them for each prompt.
        site: MLP or attention neurons.
        pos: The position scored in both runs; the last by default.
        contrast: If given, increases are of ``log p(target) - log p(contrast)``.
        model: The model that made ``cache``; ``cache.model`` by default.
        other_model: The model that made ``other``; ``other.model`` by default.
        max_bytes: A cap on the working set, results not counted.
        progress: Whether to show a bar with the time left of work longer than two seconds.

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
        ['L4N122']
    """
    if isinstance(cache, ScoredCache):
        refuse_given(target=target, pos=pos, contrast=contrast, model=model)
        mine = as_scored(cache, sites=(site,))
    else:
        mine = as_scored(cache, target, (site,), pos=-1 if pos is None else pos, contrast=contrast, model=model)
    found = _compared(mine, other, site, other_model, max_bytes, progress=progress)
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
    return _compared(as_scored(cache, target, (site,), contrast=contrast), other, site, None, MAX_BYTES, progress=False)


def other_run(mine: ScoredCache, other: ActivationCache, site: Site, other_model: Any = None) -> ScoredCache:
    """Return what is scored in the other run, read out as ``mine``.

    Raises:
        ValueError: If the runs differ in shape, their tokenizers do not share the target or contrast, or the target is
            several right answers.
    """
    if not mine.additive:
        raise ValueError("compare_neurons is of a token or one answer, and this target is several right answers")
    stream = Stream(other, other_model)
    cache_checks.require_hooks(stream, (site,))
    _require_alike(mine.stream, stream, site)
    for tokens, name in ((mine.target, "target"), (mine.contrast, "contrast")):
        if tokens is not None:
            require_shared(mine.stream.model, stream.model, tokens, name)
    if mine.sums is None:
        _, places, _ = checked_stream(other, (site,), pos=mine.places.pos, model=other_model)
    else:
        checked_stream(other, (site,), model=other_model)
        places = same_places(mine, stream)
    return replace(mine, stream=stream, places=places)


def _compared(
    mine: ScoredCache, other: ActivationCache, site: Site, other_model: Any, max_bytes: int, *, progress: bool
) -> NeuronComparison:
    theirs = other_run(mine, other, site, other_model)
    widths = [dimensions.width(mine.stream.model, site, layer) for layer in range(mine.stream.n_layers)]
    if len(set(widths)) > 1:
        raise ValueError(
            f"layers of this model differ in width ({widths}), and a comparison has one grid for all: use "
            "tl_neuron_attr.cna.changed_neurons, which gives the neurons that changed most"
        )
    with tqdm(total=2 * len(widths), desc="neurons", unit="layer", disable=not progress, delay=2) as bar:
        increase, coefficient = _scored(mine, site, max_bytes, bar)
        other_increase, other_coefficient = _scored(theirs, site, max_bytes, bar)
    return NeuronComparison(
        site,
        mine.finish(increase),
        mine.finish(other_increase),
        _strongest(mine, increase, coefficient),
        _strongest(mine, other_increase, other_coefficient),
        batched=mine.batched,
    )


def _strongest(
    q: ScoredCache, increase: Float[Tensor, "place layer *n"], coefficient: Float[Tensor, "place layer *n"]
) -> Float[Tensor, "*b_layer_neuron"]:
    """Return each neuron's coefficient, of an answer where its increase is largest."""
    if q.sums is None:
        return q.finish(coefficient)
    members = [(q.result_of_place == result).nonzero()[:, 0] for result in range(len(q))]
    found = torch.stack(
        [coefficient[mine].gather(0, increase[mine].abs().argmax(0, keepdim=True))[0] for mine in members]
    )
    return found if q.batched else found[0]


def _text(stream: Stream, found: NeuronComparison) -> NeuronText:
    """Return the text of the neurons of the largest and smallest change: of all cases summed, and of each case."""
    whole = found.summed()
    n = whole.increase.numel()
    shown = [whole.top(min(_WORTH_TEXT, n), largest=largest) for largest in (True, False)]
    shown += [found.top(min(SHOWN_NEURONS, n), largest=largest).flattened() for largest in (True, False)]
    columns: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in shown]) for name in COLUMNS}
    return neuron_text(stream.model, Neurons(**columns), stream.tokens())


def _scored(
    q: ScoredCache, site: Site, max_bytes: int, bar: "tqdm[Any]"
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
        bar.update()
    increase = torch.stack(scores, dim=1)
    additive_checks.require_finite(q.stream, increase, "the scores")
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
