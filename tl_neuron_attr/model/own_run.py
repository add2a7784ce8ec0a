"""One prompt of a batch by itself: what is scored of it, in a cache of its own run."""

from dataclasses import replace

import torch
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr.model.position_cache import PositionCache
from tl_neuron_attr.model.positions import Positions
from tl_neuron_attr.model.scored_cache import ScoredCache
from tl_neuron_attr.model.stream import Stream


def own_run(q: ScoredCache) -> ScoredCache:
    """Return the same, scored in a cache that holds its prompt only; as it is where the cache holds no other.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> sport, capital = "Tim Duncan plays the sport of", "The capital of Italy is"
        >>> both = tna.answer(tna.demo.load(), [sport, capital], [" basketball", " Rome"])
        >>> own_run(both[1]).stream.shape[0]  # prompts in the cache
        1

    Raises:
        ValueError: If what is scored is in several runs, as an answer and its contrast are.
    """
    rows: list[int] = q.places.row.unique().tolist()
    if len(rows) > 1:
        raise ValueError(f"what is scored is in {len(rows)} runs of the cache: take one of them")
    if q.stream.shape[0] == 1:
        return q
    places = Positions(torch.zeros_like(q.places.row), q.places.pos)
    return replace(q, stream=Stream(_of_row(q.stream, rows[0]), q.stream.model), places=places)


def _of_row(stream: Stream, row: int) -> ActivationCache:
    """Return one row of a cache; what has no batch dimension is shared."""
    cache, batch = stream.cache, stream.shape[0]
    own: dict[str, Tensor] = {
        name: value[row : row + 1] if value.ndim and len(value) == batch else value
        for name, value in cache.cache_dict.items()
    }
    if isinstance(cache, PositionCache):
        return PositionCache(own, cache.model, cache.pattern_pos[row : row + 1])
    return ActivationCache(own, cache.model)
