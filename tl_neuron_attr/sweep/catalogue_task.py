"""What a corpus does to every MLP neuron: its strongest contexts and how its activation is distributed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.model.batches import of_tokens
from tl_neuron_attr.model.mlp_activations import mlp_activations
from tl_neuron_attr.model.tokens import bos_prefix, text_ids
from tl_neuron_attr.results.token_text import encodable
from tl_neuron_attr.sweep.prompt_batches import fingerprint_of_texts
from tl_neuron_attr.sweep.shard_task import Frames, Items, Shard

SIGNS = ("positive", "negative")
_QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
_DECADES = (-4, 4)
_PER_DECADE = 16
"""Bins a decade: a quantile is known to 16 per cent of itself, and 259 counts a neuron are kept."""
_SIZES = torch.logspace(*_DECADES, (_DECADES[1] - _DECADES[0]) * _PER_DECADE + 1)
_EDGES = torch.cat([-_SIZES.flip(0), _SIZES])
_BINS = torch.cat([_EDGES[:1], (_EDGES[1:] + _EDGES[:-1]) / 2, _EDGES[-1:]])
"""What stands for the activations of a bin: its middle."""


@typechecked_fields
@dataclass(frozen=True)
class CatalogueTask:
    """Run every chunk of a corpus and keep, of every MLP neuron, where it was strongest.

    Items are chunks of text: ``ids``, ``tokens`` (their text), ``document``. The first position of a chunk is left out:
    there attention sinks have activations that say nothing of the text.

    Attributes:
        top: How many contexts of each sign are kept of each neuron.
        batch_size: Chunks run together.
        window: Tokens on either side of the strongest one that a context shows.
    """

    top: int = 20
    batch_size: int = 16
    window: int = 12

    name = "catalogue"
    stages = ("contexts",)

    def __post_init__(self) -> None:
        """Refuse sizes that mean nothing."""
        for name, value in asdict(self).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    def described(self) -> dict[str, Any]:
        """Return the task's parameters."""
        return asdict(self)

    @classmethod
    def read(cls, parameters: Mapping[str, Any]) -> "CatalogueTask":
        """Return the task of what :meth:`described` returned."""
        return cls(**parameters)

    def prepared(self, stage: str, shards: Iterable[pd.DataFrame]) -> dict[str, Any]:
        """Return nothing: chunks are looked at one by one."""
        return {}

    @torch.no_grad()
    def rows(self, stage: str, model: Any, shard: Shard, known: Mapping[str, Any]) -> pd.DataFrame:
        """Return one row per neuron: its strongest places in these chunks, and counts of its activations."""
        found: list[_Strongest] = []
        for items, tokens in _chunks(shard.items, self.batch_size):
            posts = mlp_activations(model, tokens)
            found = found or [_Strongest.none(post.shape[-1], self.top) for post in posts]
            for strongest, post in zip(found, posts, strict=True):
                strongest.add(post[:, 1:], items)
        frames = [strongest.frame().assign(layer=layer) for layer, strongest in enumerate(found)]
        return pd.concat(frames, ignore_index=True)

    def tables(self, frames: Frames) -> dict[str, pd.DataFrame]:
        """Return one frame per layer, one row per neuron: its strongest contexts over all shards, and quantiles."""
        merged: list[_Strongest] = []
        for frame in frames("contexts"):
            shard = [_Strongest.read(group) for _, group in frame.groupby("layer")]
            for mine, more in zip(merged, shard, strict=False):
                mine.join(more)
            merged = merged or shard
        chunks = _Chunks(next(frames("items")), self.window)
        return {f"layer_{layer:02d}": _shown(found, chunks) for layer, found in enumerate(merged)}


class _Strongest:
    """A layer's neurons: the places of their largest and smallest activations, and counts by size."""

    def __init__(self, values: Tensor, items: Tensor, positions: Tensor, counts: Tensor) -> None:
        self.values, self.items, self.positions, self.counts = values, items, positions, counts

    @classmethod
    def none(cls, neurons: int, top: int) -> "_Strongest":
        shape = (2, neurons, top)
        empty = torch.full(shape, -1, dtype=torch.int32)
        return cls(
            torch.full(shape, -torch.inf), empty, empty.clone(), torch.zeros(neurons, len(_BINS), dtype=torch.long)
        )

    def add(self, post: Float[Tensor, "batch pos d_mlp"], items: Int[Tensor, "batch"]) -> None:
        """Add the activations at all positions but the first of some chunks."""
        batch, pos, _ = post.shape
        flat = post.flatten(0, 1).T.float().cpu()
        items = items.int().repeat_interleave(pos)
        positions = torch.arange(1, pos + 1, dtype=torch.int32).repeat(batch)
        k = min(self.values.shape[2], flat.shape[1])
        best = [(sign * flat).topk(k) for sign in (1, -1)]
        values = torch.stack([b.values for b in best])
        at = torch.stack([b.indices for b in best])
        self._keep(values, items[at], positions[at])
        self.counts += _counted(flat)

    def join(self, other: "_Strongest") -> None:
        """Take in what was found in other chunks."""
        self._keep(other.values, other.items, other.positions)
        self.counts = self.counts + other.counts

    @classmethod
    def read(cls, frame: pd.DataFrame) -> "_Strongest":
        """Return what :meth:`frame` made a frame of."""

        def of(column: str) -> Tensor:
            both = [np.stack(frame[f"{sign}_{column}"].tolist()) for sign in SIGNS]
            return torch.from_numpy(np.stack(both))

        values = of("activation") * torch.tensor([1.0, -1.0])[:, None, None]
        return cls(values, of("item"), of("pos"), torch.from_numpy(np.stack(frame["counts"].tolist())).long())

    def quantiles(self) -> dict[str, Tensor]:
        """Return activations below which a share of all lies, to the width of a bin."""
        below = self.counts.double().cumsum(1) / self.counts.sum(1, keepdim=True)
        return {f"q{100 * share:g}": _BINS[(below < share).sum(1).clamp_max(len(_BINS) - 1)] for share in _QUANTILES}

    def _keep(self, values: Tensor, items: Tensor, positions: Tensor) -> None:
        joined = [
            torch.cat(pair, dim=2) for pair in ((self.values, values), (self.items, items), (self.positions, positions))
        ]
        order = joined[0].sort(dim=2, descending=True, stable=True).indices[..., : self.values.shape[2]]
        self.values, self.items, self.positions = (each.gather(2, order) for each in joined)

    def frame(self) -> pd.DataFrame:
        columns: dict[str, Any] = {"index": range(self.values.shape[1])}
        for sign, factor, values, items, positions in zip(
            SIGNS, (1, -1), self.values, self.items, self.positions, strict=True
        ):
            columns |= {
                f"{sign}_activation": list((factor * values).numpy()),
                f"{sign}_item": list(items.numpy()),
                f"{sign}_pos": list(positions.numpy()),
            }
        return pd.DataFrame({**columns, "counts": list(self.counts.numpy())})


def _chunks(items: pd.DataFrame, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the numbers and token ids of chunks of one length, some at a time."""
    ids = [torch.tensor(list(each)) for each in items["ids"]]
    for batch in of_tokens(ids, batch_size=batch_size):
        yield torch.tensor([int(items.index[at]) for at in batch.indices]), batch.tokens


def _counted(activations: Float[Tensor, "d_mlp place"]) -> Int[Tensor, "d_mlp n"]:
    """Return how many activations of each neuron fall in each bin."""
    bins = torch.bucketize(activations.contiguous(), _EDGES)
    return torch.zeros(len(bins), len(_BINS), dtype=torch.long).scatter_add_(1, bins, torch.ones_like(bins))


class _Chunks:
    """The text around a place."""

    def __init__(self, items: pd.DataFrame, window: int) -> None:
        self._tokens: list[list[str]] = [list(each) for each in items["tokens"]]
        self._window = window

    def around(self, item: int, pos: int) -> str:
        """Return the text around a token, the token itself between double brackets."""
        tokens = self._tokens[item]
        before, after = tokens[max(0, pos - self._window) : pos], tokens[pos + 1 : pos + 1 + self._window]
        return f"{''.join(before)}[[{tokens[pos]}]]{''.join(after)}"


def _shown(found: _Strongest, chunks: _Chunks) -> pd.DataFrame:
    """Return one row per neuron: ``index``, activations and contexts of each sign, strongest first, and quantiles.

    A neuron that is never above zero, or never below, has no contexts of that sign.
    """
    columns: dict[str, Any] = {"index": range(found.values.shape[1])}
    for at, (sign, factor) in enumerate(zip(SIGNS, (1, -1), strict=True)):
        values, items, positions = (each[at].tolist() for each in (found.values, found.items, found.positions))
        real = [sum(value > 0 for value in line) for line in values]  # a dead neuron has no strongest context
        columns[f"{sign}_activation"] = [[factor * v for v in line[:n]] for line, n in zip(values, real, strict=True)]
        columns[f"{sign}_context"] = [
            [chunks.around(item, pos) for item, pos in zip(line[:n], at_pos[:n], strict=True)]
            for line, at_pos, n in zip(items, positions, real, strict=True)
        ]
    return pd.DataFrame({**columns, **{name: q.numpy() for name, q in found.quantiles().items()}})


@typechecked
def corpus_items(texts: Sequence[str], *, chunk: int = 128) -> Items:
    """Return a corpus as what a study is about: chunks of at most ``chunk`` tokens, with the tokenizer's BOS if any.

    :func:`plan_study` raises ValueError if there is no text of two tokens, one can't be written, or ``chunk`` is below
    2 or above the model's context.
    """
    given = tuple(texts)
    return Items(fingerprint_of_texts([str(chunk), *given]), lambda model: _chunked(model, given, chunk))


def _chunked(model: Any, texts: Sequence[str], chunk: int) -> pd.DataFrame:
    context = getattr(model.cfg, "n_ctx", None)
    if chunk < 2 or (context and chunk > context):
        raise ValueError(f"chunk must be between 2 and the model's context of {context} tokens, got {chunk}")
    prefix = bos_prefix(model)
    rows: list[dict[str, Any]] = []
    for document, text in enumerate(texts):
        ids = text_ids(model, text, f"texts[{document}]")
        step = chunk - len(prefix)
        for start in range(0, len(ids), step):
            piece = prefix + ids[start : start + step]
            if len(piece) > 1:  # the first position is left out: a single token has no other
                tokens = [encodable(model.tokenizer.decode([i])) for i in piece]
                rows.append({"ids": piece, "tokens": tokens, "document": document})
    if not rows:
        raise ValueError(f"texts holds no text of two tokens: {len(texts)} given")
    return pd.DataFrame(rows)
