"""Rows of a page's table of heads: what each reads, what it writes from there, and what that does to the target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr.knowledge.attention_sources import split_scores
from tl_neuron_attr.knowledge.token_words import TokenWords, WordList
from tl_neuron_attr.model.components import Head, head_name
from tl_neuron_attr.model.scored_cache import ScoredCache

REASONS = 2
"""Pairs of components shown of a score: those that make most of the difference."""


@dataclass(frozen=True)
class HeadRow:
    """One head.

    Attributes:
        layer: Its layer.
        head: Its number there.
        score: What it adds to log p(target), in nats.
        source: The position whose reading moved the target most in the direction of the score.
        token: The token there.
        from_source: The part of the score that comes from there.
        attention: How much the head attends there.
        writes: The tokens that what it wrote from there promotes most.
        target_rank: The target's place among all tokens, by what that promotes.
        reasons: Why it looked there: the pairs of components, one that wrote the query and one that wrote the key, that
            add most to the score of that source beyond their mean over the other sources, and how much, in the units of
            its scores; none where the architecture hides them.
    """

    layer: int
    head: int
    score: float
    source: int
    token: str
    from_source: float
    attention: float
    writes: WordList
    target_rank: int
    reasons: tuple[tuple[str, str, float], ...] = ()

    @property
    def name(self) -> str:
        """``L12H2``."""
        return head_name(self.layer, self.head)


def best_heads(scores: Float[Tensor, "layer head"], n: int, *, largest: bool = True) -> list[Head]:
    """Return the ``n`` heads of the highest score, highest first (or lowest), or as many as there are.

    A layer whose scores are all exactly zero has no heads, unless all layers' are.
    """
    flat, with_heads = scores.flatten(), scores.any(1) | (not bool(scores.any()))
    there = with_heads.repeat_interleave(scores.shape[1]).nonzero()[:, 0]
    best = there[flat[there].topk(min(n, len(there)), largest=largest).indices].tolist()
    return [divmod(i, scores.shape[1]) for i in best]


def head_rows(
    q: ScoredCache,
    heads: Sequence[Head],
    by_source: Mapping[Head, Float[Tensor, "source"]],
    scores: Float[Tensor, "layer head"],
    tokens: Sequence[str],
    words: TokenWords,
) -> list[HeadRow]:
    """Return the rows of some heads of one prompt."""
    if not heads:
        return []
    sources = [_read(by_source[at], float(scores[at])) for at in heads]
    ranked = words.ranked(writes_of_heads(q, heads, by_source, scores), int(q.target[0]))
    return [
        HeadRow(
            *at, float(scores[at]), source, tokens[source], float(by_source[at][source]), _attention(q, at, source),
            found.promoted, found.rank, _reasons(q, *at, source),
        )
        for at, source, found in zip(heads, sources, ranked, strict=True)
    ]  # fmt: skip


def writes_of_heads(
    q: ScoredCache,
    heads: Sequence[Head],
    by_source: Mapping[Head, Float[Tensor, "source"]],
    scores: Float[Tensor, "layer head"],
) -> Float[Tensor, "n d_model"]:
    """Return what each head wrote from the source that its row is about."""
    return torch.stack([_write(q, at, _read(by_source[at], float(scores[at]))) for at in heads])


def _read(from_each: Float[Tensor, "source"], score: float) -> int:
    """Return the source whose reading moved the target most in the direction of the score."""
    return int((from_each if score >= 0 else -from_each).argmax())


def _write(q: ScoredCache, at: Head, source: int) -> Float[Tensor, "d_model"]:
    """Return what a head wrote from a source."""
    layer, head = at
    return q.stream.sublayer("attn", layer, q.places).head_writes()[0, head, source]


def _attention(q: ScoredCache, at: Head, source: int) -> float:
    layer, head = at
    return float(q.stream.pattern(layer)[int(q.places.row[0]), head, int(q.places.pos[0]), source])


def _reasons(q: ScoredCache, layer: int, head: int, source: int) -> tuple[tuple[str, str, float], ...]:
    """Return the pairs of components that set a source's score apart from the others'.

    The softmax does not see what all sources have in common, so each pair's mean over the others is taken off.
    """
    try:
        q.require(("attn",), reads=True)
        found = split_scores(q.stream, q.places, layer, head)
    except ValueError:  # scores that the architecture hides, or the cache lacks: the rest of the row needs none
        return ()
    if source not in found.sources or len(found.sources) < 2:
        return ()
    at = found.sources.index(source)
    others = (found.pairs.sum(0) - found.pairs[at]) / (len(found.sources) - 1)
    apart = found.pairs[at] - others
    best = apart.flatten().topk(min(REASONS, apart.numel()))
    names, n = found.components, len(found.components)
    return tuple(
        (names[i // n], names[i % n], v) for i, v in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )


def lowest_heads(scores: Float[Tensor, "layer head"], n: int) -> list[Head]:
    """Return the ``n`` heads that lower the target most, those below zero only."""
    return [at for at in best_heads(scores, n, largest=False) if float(scores[at]) < 0]
