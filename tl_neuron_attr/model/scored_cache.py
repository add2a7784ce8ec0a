"""A cache, a target and a position, checked once: what every score of one prediction is computed from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache
from typing_extensions import Unpack

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.model import cache_checks
from tl_neuron_attr.model.components import within
from tl_neuron_attr.model.padding_checks import require_real_positions
from tl_neuron_attr.model.positions import Pos, Positions
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.targets import Target, token_ids
from tl_neuron_attr.numerics.increase import MAX_BYTES, Increase
from tl_neuron_attr.numerics.readout import Readout
from tl_neuron_attr.numerics.sublayer import SITES, Site, Sublayer


class Scoring(TypedDict, total=False):
    """What a score is of, beside cache and target: the keywords of every function that takes a cache and a target.

    Attributes:
        pos: The position scored, one for all prompts or one each; the last by default.
        contrast: If given, scores are of ``log p(target) - log p(contrast)``.
        model: The model that made the cache; ``cache.model`` by default.
        final_bias: False leaves the final norm's bias out of the base, as the authors' GPT-2 notebook does.
    """

    pos: Pos
    contrast: Target | None
    model: Any
    final_bias: bool


@dataclass(frozen=True, eq=False, repr=False)
class ScoredCache:
    """A checked cache and what is scored in it, made by :func:`tl_neuron_attr.scored`.

    The distributions its sublayers started from are read out when they are first needed, all of a call's in one pass
    over ``W_U``, and kept if they fit in ``max_bytes``.

    Attributes:
        stream: The cache's stream.
        places: The position scored, one per prompt.
        readout: The readout frozen there.
        target: The token followed, one per prompt.
        contrast: The token it is compared with, if any.
        max_bytes: A cap on what is kept.
    """

    stream: Stream
    places: Positions
    readout: Readout
    target: Int[Tensor, "batch"]
    contrast: Int[Tensor, "batch"] | None
    max_bytes: int = MAX_BYTES
    _increases: dict[tuple[Site, int], Increase] = field(default_factory=dict, init=False)
    _checked: set[tuple[Site, bool]] = field(default_factory=set, init=False)

    def __repr__(self) -> str:
        """``ScoredCache(2 prompts at [6, 4], target [5, 11])``."""
        prompts = f"{len(self.places)} prompt{'s' * (len(self.places) > 1)}"
        contrast = "" if self.contrast is None else f", contrast {self.contrast.tolist()}"
        return f"ScoredCache({prompts} at {self.places.pos.tolist()}, target {self.target.tolist()}{contrast})"

    def require(self, sites: Sequence[Site], *, reads: bool = False) -> None:
        """Check, once, that the cache has what ``sites`` need; with ``reads``, the norms in front of them too.

        Raises:
            ValueError: Naming the missing hooks, or the layers without neurons.
        """
        new: tuple[Site, ...] = tuple(site for site in SITES if site in sites and (site, reads) not in self._checked)
        if new:
            _require(self.stream, new, reads)
            self._checked.update((site, reads) for site in new)

    def increases(self, sites: Sequence[Site], layers: Sequence[int] | None = None) -> list[Increase]:
        """Return scores of what is added to each stream that a sublayer read, in the order of the stream.

        Those of one call are read out together, when the first of them is needed.
        """
        wanted = range(self.stream.n_layers) if layers is None else layers
        return [self.increase(site, layer) for layer in wanted for site in SITES if site in sites]

    def increase(self, site: Site, layer: int) -> Increase:
        """Return scores of what is added to the stream that one sublayer read."""
        if (site, layer) in self._increases:
            return self._increases[site, layer]
        base = self.stream.base(site, layer, self.places)
        increase = Increase(self.readout, base, self.target, self.contrast)
        if self._fitting(self.max_bytes) >= len(self.places) or len(self.places) == 1:
            self._increases[site, layer] = increase
        return increase

    def final(self) -> Increase:
        """Return scores of what is added to the final stream."""
        return Increase(self.readout, self.stream.final(self.places), self.target, self.contrast)

    def groups(self, max_bytes: int) -> Iterator["ScoredCache"]:
        """Yield the prompts in groups whose base distributions fit in ``max_bytes``; one prompt at the least."""
        kept = self._fitting(self.max_bytes) >= len(self.places)
        if (kept and self._fitting(max_bytes) >= len(self.places)) or len(self.places) == 1:
            yield self
            return
        prompts = torch.arange(len(self.places), device=self.target.device)
        for rows in prompts.split(max(1, self._fitting(max_bytes))):
            yield self.select(rows)

    def select(self, prompts: Int[Tensor, "n"]) -> "ScoredCache":
        """Return what is scored in the given prompts."""
        contrast = None if self.contrast is None else self.contrast[prompts]
        return replace(
            self,
            places=self.places.select(prompts),
            readout=self.readout.select(prompts),
            target=self.target[prompts],
            contrast=contrast,
        )

    def checked_sublayers(self, sites: Sequence[Site], layers: Sequence[int] | None = None) -> Iterator[Sublayer]:
        """Yield sublayers whose neurons are known to sum to what the sublayer wrote (paper 1, Eq. 5 and 7).

        Raises:
            IndexError: If a layer is out of range or named twice.
            ValueError: If a sublayer's neurons do not add up.
        """
        wanted = range(self.stream.n_layers) if layers is None else layers
        if not wanted:
            raise ValueError("layers is empty: name at least one, or leave it out for all")
        for layer in wanted:
            within("layers", layer, self.stream.n_layers)
        if len(set(wanted)) < len(wanted):
            raise IndexError(f"layers names a layer twice: {list(wanted)}")
        for layer in wanted:
            for site in sites:
                sublayer = self.stream.sublayer(site, layer, self.places)
                along = sublayer.out / sublayer.out.norm(dim=-1, keepdim=True).clamp_min(1e-30)
                cache_checks.require_neurons_add_up(self.stream, sublayer, along, sublayer.project_onto(along))
                yield sublayer

    def log_probs(self) -> Float[Tensor, "batch d_vocab"]:
        """Return the model's own log-probabilities at the scored position, in nats (paper 1, Eq. 2)."""
        return self.final().log_p()

    def finish(self, scores: Float[Tensor, "batch *n"]) -> Float[Tensor, "*b_n"]:
        """Return scores as the user's cache is shaped: without a batch dimension if it has none.

        Raises:
            ValueError: If a score is not finite, naming the tensor it came from.
        """
        cache_checks.require_finite(self.stream, scores, "the scores")
        return scores if self.stream.batched else scores[0]

    def _fitting(self, max_bytes: int) -> int:
        """How many prompts' base distributions, one per sublayer, take at most half of ``max_bytes``."""
        each = 2 * self.stream.n_layers * self.readout.d_vocab * self.stream.dtype.itemsize
        return max_bytes // (2 * each)


@typechecked
@torch.no_grad()
def scored(
    cache: ActivationCache,
    target: Target,
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
    Eq. 13), which are half of what a score costs.

    Args:
        cache: A cache of a forward pass, with or without a batch dimension.
        target: The token followed: an id, a string that is one token, or one of them per prompt.
        pos: The position scored, one for all prompts or one each; the last by default.
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
    stream, places, readout = checked_stream(cache, (), pos=pos, model=model)
    if not final_bias:
        readout = replace(readout, norm_bias=torch.zeros_like(readout.norm_bias))
    other = None if contrast is None else token_ids(stream, contrast, "contrast")
    return ScoredCache(stream, places, readout, token_ids(stream, target), other, max_bytes)


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
        TypeError: If the target is missing.
        ValueError: If a scored cache comes with what it has already, or as :func:`scored`.
        IndexError: If a position or token id is out of range.
    """
    if isinstance(cache, ScoredCache):
        refuse_given(target=target, **scoring)
        q = cache
    elif target is None:
        raise TypeError("target is missing: pass a token, or in place of the cache what tna.scored(cache, target) made")
    else:
        _require(Stream(cache, scoring.get("model")), tuple(sites), False)
        q = scored(cache, target, max_bytes=max_bytes, **scoring)
    q.require(sites)
    return q


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
    by default. A scored cache was checked when it was made, and has a position.

    Raises:
        ValueError: If the cache or position is invalid.
        IndexError: If a position is out of range.
    """
    if isinstance(cache, ScoredCache):
        refuse_given(pos=pos, model=model)
        cache.require(sites, reads=reads)
        return cache.stream, cache.places, cache.readout
    stream, pos = Stream(cache, model), -1 if pos is None else pos
    _require(stream, tuple(sites), reads)
    where = stream.positions(pos)
    require_real_positions(stream, where, given=not (isinstance(pos, int) and pos == -1))
    readout = stream.readout(where)
    cache_checks.require_additive(stream, readout, where)
    return stream, where, readout


def _require(stream: Stream, sites: tuple[Site, ...], reads: bool) -> None:
    cache_checks.require_hooks(stream, sites, reads=reads)
    if "mlp" in sites:
        cache_checks.require_mlp_neurons(stream)
