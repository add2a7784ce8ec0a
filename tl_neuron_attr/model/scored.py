"""Make a scored cache: check a cache, a target and a position once, in every form that users pass them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens import ActivationCache
from typing_extensions import Unpack

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.model import additive_checks
from tl_neuron_attr.model.answer_places import PlacedAnswer, in_cache, places_of
from tl_neuron_attr.model.answer_runs import AnswerRuns
from tl_neuron_attr.model.answer_tokens import Answer
from tl_neuron_attr.model.cache_checks import needed_by, require_sites
from tl_neuron_attr.model.padding_checks import last_real_positions, require_real_positions
from tl_neuron_attr.model.positions import Pos, Positions
from tl_neuron_attr.model.scored_cache import ScoredCache, Scoring
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.targets import Target, has_answers, token_ids
from tl_neuron_attr.numerics.answer_sums import AnswerSums
from tl_neuron_attr.numerics.increase import MAX_BYTES
from tl_neuron_attr.numerics.readout import Readout
from tl_neuron_attr.numerics.sublayer import Site


@typechecked
@torch.no_grad()
def scored(
    cache: ActivationCache,
    target: Target | None = None,
    *,
    pos: Pos = -1,
    contrast: Target | None = None,
    model: Any = None,
    final_bias: bool = True,
    max_bytes: int = MAX_BYTES,
) -> ScoredCache:
    """Check a cache, a target and a position once, so that several calls pay once.

    What it returns takes the place of cache and target in every ``attribute_*``, ``value_neurons``, ``query_layers``,
    ``query_neurons``, ``trace``, ``baseline_scores`` and ``vis.report``. They share the base distributions (paper 1,
    Eq. 13), which are half of what a score costs. Layers and heads find on the way what a search for value neurons
    needs, so that a first call takes a little longer, and the search after it makes one pass over the unembedding.

    Args:
        cache: A cache of a forward pass, with or without a batch dimension.
        target: The token followed: an id, a string that is one token, a set of them (:func:`~tl_neuron_attr.any_of`),
            the answer the cache's text ends with (:class:`~tl_neuron_attr.Answer`), or one of these per prompt; by
            default what the model itself predicts.
        pos: The position scored, one for all prompts or one each. By default (-1) the last of each prompt that is not
            padding, as its attention mask or pad token shows. Of an answer, the position before it.
        contrast: If given, scores are of ``log p(target) - log p(contrast)``.
        model: The model that made the cache; ``cache.model`` by default.
        final_bias: False leaves the final norm's bias out of the base, as the authors' GPT-2 notebook does.
        max_bytes: A cap on the base distributions kept; where they are larger, every call reads them out again.

    Raises:
        ValueError: If the cache, target or position is invalid; see :mod:`tl_neuron_attr.model.cache_checks` and
            :mod:`tl_neuron_attr.model.targets`.
        IndexError: If a position or token id is out of range.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> basketball = tna.scored(cache, " basketball")
        >>> value = tna.value_neurons(basketball, k=3)
        >>> tna.attribute_mlp_neurons(basketball).max() > 1  # nats
        tensor(True)
    """
    return _checked(
        cache, target, (), pos=pos, contrast=contrast, model=model, final_bias=final_bias, max_bytes=max_bytes
    )


def _checked(
    cache: ActivationCache,
    target: Target | None,
    sites: Sequence[Site],
    *,
    pos: Pos = -1,
    contrast: Target | None = None,
    model: Any = None,
    final_bias: bool = True,
    max_bytes: int = MAX_BYTES,
) -> ScoredCache:
    """Return what :func:`scored` returns, the cache checked at once for what ``sites`` need: checks walk every block.

    Raises:
        ValueError: As :func:`as_scored`.
        IndexError: If a position or token id is out of range.
    """
    if has_answers(target, contrast):
        stream = Stream(cache, model)
        require_sites(stream, tuple(sites))
        if target is None:
            raise ValueError("target is missing: a contrast of answers needs one beside it")
        found = scored_answers(stream, in_cache(stream, target, contrast, pos), max_bytes, batched=stream.batched)
    else:
        stream, places, readout = checked_stream(cache, sites, pos=pos, model=model)
        other = None if contrast is None else token_ids(stream, contrast, "contrast")
        ids = token_ids(stream, 0 if target is None else target)
        found = ScoredCache(stream, places, readout, ids, other, max_bytes, batched=stream.batched)
        if target is None:
            found = replace(found, target=found.log_probs().argmax(-1))
    found = found if final_bias else found.without_final_bias()
    found.note_checked(sites)
    return found


def scored_answers(stream: Stream, placed: Sequence[PlacedAnswer], max_bytes: int, *, batched: bool) -> ScoredCache:
    """Return what is scored where answers are placed in a stream that has all hooks.

    Raises:
        ValueError: If the stream does not hold the answers, or does not add up.
    """
    places, target, sums = places_of(stream, placed)
    return _of_sums(stream, places, target, sums, max_bytes, batched=batched)


@torch.no_grad()
def scored_runs(model: Any, runs: AnswerRuns, sites: Sequence[Site], *, max_bytes: int = MAX_BYTES) -> ScoredCache:
    """Run prompts with what is followed, and return the scored cache, one result per prompt, for ``sites``.

    Raises:
        ValueError: If the model's stream does not add up, as :func:`scored`.
    """
    _, cache = model.run_with_cache(runs.tokens, names_filter=needed_by(tuple(sites), model))
    stream = Stream(cache, model)
    require_sites(stream, tuple(sites))
    return _of_sums(stream, runs.places, runs.target, runs.sums, max_bytes, batched=True)


def scored_predictions(cache: ActivationCache, target: Int[Tensor, "batch token"]) -> ScoredCache:
    """Return what is scored of answers whose last token each row of a cache predicts at its end.

    Raises:
        ValueError: As :func:`scored`.
    """
    if target.shape[1] == 1:
        return scored(cache, target[:, 0])
    stream = Stream(cache)
    require_sites(stream, ())
    start = stream.shape[1] - target.shape[1]
    placed = [PlacedAnswer(Answer(tuple(ids)), row, 1, row, start) for row, ids in enumerate(target.tolist())]
    return scored_answers(stream, placed, MAX_BYTES, batched=True)


def _of_sums(
    stream: Stream, places: Positions, target: Tensor, sums: AnswerSums, max_bytes: int, *, batched: bool
) -> ScoredCache:
    readout = _readout(stream, places, given=True)
    return ScoredCache(stream, places, readout, target, None, max_bytes, sums, batched)


def same_places(q: ScoredCache, stream: Stream) -> Positions:
    """Return the places of answers in another stream, checked as those of :func:`scored`.

    Raises:
        ValueError: If the other stream does not hold the answers, or does not add up.
    """
    ids, within_answer = stream.tokens(), q.places.pos[:-1] + 1 == q.places.pos[1:]
    if ids is not None and q.sums is not None:
        within_answer &= q.sums.answer[:-1] == q.sums.answer[1:]
        following = ids[q.places.row[:-1], q.places.pos[:-1] + 1]
        if bool((within_answer & (following != q.target[:-1])).any()):
            raise ValueError("other does not hold the answer where cache does: run both on the same prompt and answer")
    _readout(stream, q.places, given=True)
    return q.places


def as_scored(
    cache: ActivationCache | ScoredCache,
    target: Target | None = None,
    sites: Sequence[Site] = (),
    *,
    max_bytes: int = MAX_BYTES,
    **scoring: Unpack[Scoring],
) -> ScoredCache:
    """Return the scored cache given, or made of ``cache`` and ``target``, checked for what ``sites`` need.

    Raises:
        ValueError: If a scored cache comes with what it has already, or as :func:`scored`.
        IndexError: If a position or token id is out of range.
    """
    if isinstance(cache, ScoredCache):
        refuse_given(target=target, **scoring)
        cache.require(sites)
        return cache
    return _checked(cache, target, sites, max_bytes=max_bytes, **scoring)


def refuse_given(**given: Any) -> None:
    """Refuse what a scored cache holds already.

    Raises:
        ValueError: Naming the arguments that are not None.
    """
    named = [name for name, value in given.items() if value is not None]
    if named:
        raise ValueError(
            f"{', '.join(named)} given with a scored cache, which has its own: pass it alone, or make another with "
            "tna.scored(cache, target, ...)"
        )


def checked_stream(
    cache: ActivationCache | ScoredCache,
    sites: Sequence[Site],
    *,
    pos: Pos | None = None,
    model: Any = None,
    reads: bool = False,
) -> tuple[Stream, Positions, Readout]:
    """Return the stream of a cache that has what ``sites`` need and adds up, the positions, and the readout there.

    With ``reads``, what the sublayers of ``sites`` read the stream through must be there too. The position is the last
    real one by default. A scored cache was checked when it was made, and has a position.

    Raises:
        ValueError: If the cache or position is invalid.
        IndexError: If a position is out of range.
    """
    if isinstance(cache, ScoredCache):
        refuse_given(pos=pos, model=model)
        cache.require(sites, reads=reads)
        return cache.stream, cache.places, cache.readout
    stream, pos = Stream(cache, model), -1 if pos is None else pos
    require_sites(stream, tuple(sites), reads=reads)
    given = not (isinstance(pos, int) and pos == -1)
    where = stream.positions(pos if given else last_real_positions(stream))
    return stream, where, _readout(stream, where, given=given)


def _readout(stream: Stream, places: Positions, *, given: bool) -> Readout:
    """Return the readout at places that are real and where the stream adds up."""
    require_real_positions(stream, places, given=given)
    readout = stream.readout(places)
    additive_checks.require_additive(stream, readout, places)
    return readout
