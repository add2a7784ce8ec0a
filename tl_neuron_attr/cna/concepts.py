"""The zero-shot vocabulary test: hidden-interpretable neurons found in the weights alone (paper 3, Table 8).

Every shallow MLP neuron's write direction is transformed by the value and output matrices of each shallow attention
layer (all its heads) and read out over the vocabulary. A neuron counts if, transformed by any of the layers, more than
``M`` of its 50 first tokens are words of a concept, numbers for example. No prompt is run. The whole set is then
zeroed.

The authors give neither their word list nor the rule that makes M = 0 choose 51,980 of 176,128 neurons: that it is
"more than M", and by any layer, is our reading.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.cna.answered import answered
from tl_neuron_attr.cna.arithmetic_cases import Case
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.components import MlpNeuron
from tl_neuron_attr.model.intervene import ablate
from tl_neuron_attr.model.neuron_directions import through_head
from tl_neuron_attr.model.unembedding import unembedding
from tl_neuron_attr.model.weights import block_weights
from tl_neuron_attr.model.within import within
from tl_neuron_attr.numerics.increase import MAX_BYTES
from tl_neuron_attr.numerics.sublayer import score_dtype
from tl_neuron_attr.results.plural import plural
from tl_neuron_attr.results.table import PrintsAsTable, Table
from tl_neuron_attr.results.token_text import token_text

TOP_TOKENS = 50
"""How many tokens are looked at."""

_EVERY = 8
"""Every eighth token is sampled: a word of a hundred among 150,000 ranks 1,500th by chance, so that some 190 sampled
tokens lie above it where 50 are enough."""


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class ConceptNeurons(PrintsAsTable):
    """How many concept words each MLP neuron promotes once attention has transformed it.

    Attributes:
        layers: The neurons' layers.
        counts: By layer and neuron, the most concept words among the first tokens, over the attention layers.
        unmoved: The same of what the neuron itself writes, no attention between.
        words: The vocabulary's tokens that are words of the concept.
        missing: The words that are no token of the vocabulary.
    """

    layers: tuple[int, ...]
    counts: Int[Tensor, "layer d_mlp"]
    unmoved: Int[Tensor, "layer d_mlp"]
    words: tuple[str, ...]
    missing: tuple[str, ...]

    @typechecked
    def more_than(self, m: int) -> list[MlpNeuron]:
        """Return the neurons that promote more than ``m`` of the words.

        Raises:
            ValueError: If ``m`` is negative.
        """
        if m < 0:
            raise ValueError(f"more_than must be 0 or more, got {m}")
        most = int(self.counts.max())  # torch compares with no integer beyond its own
        return [("mlp", self.layers[la], i) for la, i in (self.counts > min(m, most)).nonzero().tolist()]

    @typechecked
    def random(self, n: int, seed: int = 0) -> list[MlpNeuron]:
        """Return ``n`` random neurons of the same layers.

        Raises:
            ValueError: If there are not that many.
        """
        if not 0 <= n <= self.counts.numel():
            raise ValueError(f"n must be between 0 and the {self.counts.numel()} neurons, got {n}")
        drawn = torch.randperm(self.counts.numel(), generator=torch.Generator().manual_seed(seed))[:n]
        width = self.counts.shape[1]
        return [("mlp", self.layers[i // width], i % width) for i in drawn.sort().values.tolist()]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per neuron: layer, index, words before and after attention."""
        layer, index = (grid.flatten().tolist() for grid in torch.meshgrid(
            torch.tensor(self.layers), torch.arange(self.counts.shape[1]), indexing="ij"
        ))  # fmt: skip
        counts, unmoved = self.counts.flatten().tolist(), self.unmoved.flatten().tolist()
        return pd.DataFrame({"layer": layer, "index": index, "unmoved": unmoved, "moved": counts})

    def table(self) -> Table:
        """Return how many neurons promote more than M words, by layer."""
        steps = (0, 1, 2, 3, 5, 10, 20)
        rows = [(f"L{layer}", *(int((self.counts[i] > m).sum()) for m in steps)) for i, layer in enumerate(self.layers)]
        total = ("all", *(int((self.counts > m).sum()) for m in steps))
        caption = (
            f"of {self.counts.numel()} neurons, those with more than M of {len(self.words)} words among their first"
        )
        return Table(("layer", *(f"M = {m}" for m in steps)), [*rows, total], caption)


@typechecked
@torch.no_grad()
def concept_neurons(
    model: Any,
    words: Sequence[str],
    *,
    layers: Sequence[int] | None = None,
    attn_layers: Sequence[int] | None = None,
    top: int = TOP_TOKENS,
    max_bytes: int = MAX_BYTES,
    progress: bool = True,
) -> ConceptNeurons:
    """Count a concept's words among the tokens each shallow neuron promotes behind attention (paper 3, Table 8).

    Args:
        model: The model.
        words: The words of the concept. A token is one of them if its text is, but for case and spaces around it.
        layers: The neurons' layers; the lower half by default, as in the paper.
        attn_layers: The attention layers that transform them; by default those of the lower half and the next.
        top: How many tokens are looked at; the paper takes 50.
        max_bytes: A cap on the working set.
        progress: Whether to show a progress bar, once it takes more than a moment.

    Raises:
        ValueError: If no word is a token of the vocabulary, a list is empty, or ``top`` is out of range.
        TypeError: If ``words`` is one string.
        IndexError: If a layer is out of range.

    Examples:
        >>> from tl_neuron_attr import cna, demo
        >>> model = demo.load()
        >>> found = cna.concept_neurons(model, [str(n) for n in range(100)], progress=False)
        >>> found.layers, found.counts.shape == found.unmoved.shape
        ((0, 1), True)
    """
    half = max(1, model.cfg.n_layers // 2)
    wanted = list(range(half)) if layers is None else list(layers)
    moving = list(range(min(half + 1, model.cfg.n_layers))) if attn_layers is None else list(attn_layers)
    for name, given in (("layers", wanted), ("attn_layers", moving)):
        if not given:
            raise ValueError(f"{name} is empty: give at least one layer")
        for layer in given:
            within(name, layer, model.cfg.n_layers)
    d_vocab = dimensions.d_vocab(model)
    if not 1 <= top <= d_vocab:
        raise ValueError(f"top must be between 1 and the vocabulary's {d_vocab} tokens, got {top}")
    is_word, missing = _vocabulary(model, words)
    chunk = max(1, max_bytes // (3 * d_vocab * score_dtype(dimensions.dtype_of(model)).itemsize))
    counts: list[Tensor] = []
    unmoved: list[Tensor] = []
    with tqdm(total=len(wanted) * len(moving), desc="concepts", unit="layer", disable=not progress, delay=2) as bar:
        for layer in wanted:
            weights = block_weights(model, layer)
            rows = weights.directions("mlp")
            written = weights.as_written("mlp", rows[:].to(score_dtype(rows.dtype)))
            unmoved.append(_counted(model, written, is_word, top, chunk))
            best = torch.zeros_like(unmoved[-1])
            for attn in moving:
                moved = through_head(model, written, attn, None)
                best = best.maximum(_counted(model, moved, is_word, top, chunk))
                bar.update()
            counts.append(best)
    found = tuple(token_text(model, token) for token in is_word.nonzero()[:, 0].tolist())
    return ConceptNeurons(tuple(wanted), torch.stack(counts), torch.stack(unmoved), found, missing)


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class ZeroShot(PrintsAsTable):
    """What zeroing the neurons of a concept costs (paper 3, Tables 8, 17 and 21).

    Attributes:
        frame: One row per threshold: ``more_than``, ``neurons``, ``concept`` and ``random``, the share of the untouched
            accuracy lost by zeroing them, and by zeroing as many random neurons of the same layers.
        cases: How many cases.
        accuracy: The untouched model's accuracy.
        neurons: How many neurons there are in those layers.
    """

    frame: pd.DataFrame
    cases: int
    accuracy: float
    neurons: int

    def table(self) -> Table:
        """Return Table 8, with random neurons beside each row."""
        rows = [
            (f"M = {row['more_than']}", row["neurons"], f"{100 * row['concept']:.1f}", f"{100 * row['random']:.1f}")
            for row in self.frame.to_dict("records")
        ]
        cases, neurons = plural(self.cases, "case"), plural(self.neurons, "neuron")
        caption = f"{cases}, accuracy {100 * self.accuracy:.1f} %, {neurons}; decrease in %"
        return Table(("more than", "neurons", "concept", "random"), rows, caption)


@typechecked
@torch.no_grad()
def zero_shot(
    model: Any,
    cases: Sequence[Case],
    found: ConceptNeurons,
    *,
    more_than: Sequence[int] = (0, 1, 2, 3),
    seeds: int = 3,
    batch_size: int = 256,
    progress: bool = True,
) -> ZeroShot:
    """Zero all neurons that promote more than M words of a concept, and as many random ones of the same layers.

    Args:
        model: The model.
        cases: What it is asked.
        found: From :func:`concept_neurons` on this model.
        more_than: The thresholds M.
        seeds: How many random draws are averaged; the paper has one.
        batch_size: Cases run together.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If there is no case, ``seeds`` is below 1, or the untouched model answers none.

    Examples:
        >>> from tl_neuron_attr import cna, demo
        >>> model = demo.load()
        >>> found = cna.concept_neurons(model, [str(n) for n in range(100)], progress=False)
        >>> cases = cna.arithmetic_cases(model, cna.problems("+", digits=1, n=20))
        >>> cna.zero_shot(model, cases, found, more_than=[1], seeds=1, progress=False).frame["more_than"].tolist()
        [1]
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    untouched = _share(model, cases, [], batch_size)
    if untouched == 0:
        raise ValueError("cases: the untouched model answers none of them, so nothing can be lost")

    def lost(neurons: list[MlpNeuron]) -> float:
        return 1 - _share(model, cases, neurons, batch_size) / untouched

    rows: list[dict[str, float]] = []
    for m in tqdm(more_than, desc="zero-shot", unit="M", disable=not progress):
        chosen = found.more_than(m)
        drawn = [lost(found.random(len(chosen), seed)) for seed in range(seeds)]
        rows.append({"more_than": m, "neurons": len(chosen), "concept": lost(chosen), "random": sum(drawn) / seeds})
    return ZeroShot(pd.DataFrame(rows), len(cases), untouched, found.counts.numel())


def _vocabulary(model: Any, words: Sequence[str]) -> tuple[Bool[Tensor, "d_vocab"], tuple[str, ...]]:
    """Return which tokens are one of the words, and the words that are no token."""
    if model.tokenizer is None:
        raise ValueError("words need a tokenizer, and this model has none")
    texts = [token_text(model, token).strip().casefold() for token in range(dimensions.d_vocab(model))]
    plain = {word.strip().casefold(): word for word in words}
    is_word = torch.tensor([text in plain and text != "" for text in texts], device=dimensions.device_of(model))
    if not bool(is_word.any()):
        some = [word[:40] for word in words[:5]]
        raise ValueError(f"words: none of {some} is a token of the vocabulary")
    return is_word, tuple(word for text, word in plain.items() if text not in set(texts))


def _counted(
    model: Any, vectors: Float[Tensor, "n d_model"], is_word: Bool[Tensor, "d_vocab"], top: int, chunk: int
) -> Int[Tensor, "n"]:
    """Return how many of the first tokens of each vector are words.

    Most vectors have none, and a sample of the vocabulary shows it: no word is among the first ``top`` tokens if
    ``top`` others of the sample lie above the best word. Only the rest are read out whole.
    """
    readout = unembedding(model, vectors.dtype)
    words = readout.columns(is_word.nonzero()[:, 0]).T
    others = readout.columns((~is_word).nonzero()[::_EVERY, 0]).T
    counts: list[Tensor] = []
    for part in vectors.split(chunk):
        normed = readout.norm.apply_unscaled(part)
        best = (normed @ words).amax(-1, keepdim=True)
        unsure = (normed @ others > best).sum(-1) < top
        counts.append(unsure.long())
        counts[-1][unsure] = is_word[readout.project(part[unsure]).topk(top).indices].sum(-1)
    return torch.cat(counts)


def _share(model: Any, cases: Sequence[Case], neurons: list[MlpNeuron], batch_size: int) -> float:
    with ablate(model, neurons):
        right = answered(model, cases, batch_size=batch_size)
    return sum(right) / len(right)
