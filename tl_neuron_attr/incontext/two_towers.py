"""The two towers of a head: what it compares, and which components wrote it (paper 2, the two-tower hypothesis).

A head's query tower maps the stream at the last position to a vector, and its key tower maps the stream at each label.
The score is their inner product, and attention is its softmax over all positions:

    alpha_p = softmax_p(s_p),        s_p = scale * q . k_p

Both towers are linear in what every component wrote into the stream (norms' scales frozen), so each score is a sum over
pairs of components, one on the query side and one on the key side. The hypothesis is the paper's (second-hand); the
split is derived here: the paper interprets its towers through the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.incontext.icl_batches import positions_of_labels
from tl_neuron_attr.incontext.icl_prompt import IclPrompt
from tl_neuron_attr.incontext.label_values import Prompts, as_list, at_labels, last_attention
from tl_neuron_attr.model import attention_scores
from tl_neuron_attr.model.additive_checks import require_finite
from tl_neuron_attr.model.cache_checks import needed_by
from tl_neuron_attr.model.components import head_name
from tl_neuron_attr.model.positions import Positions
from tl_neuron_attr.model.score_components import score_components
from tl_neuron_attr.model.scored import checked_stream
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.within import within
from tl_neuron_attr.results.table import PrintsAsTable, Table


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class TwoTowers(PrintsAsTable):
    """A head's towers at the last position and at the labels; everything in the units of its scores.

    Attributes:
        layer: The head's layer.
        head: The head.
        components: What wrote the stream that the head reads, and ``bias``: what no component wrote.
        query: The query tower's vector as it enters the product, rotated by its position.
        key: The key tower's vector at each label.
        score: The model's own scores, before the softmax.
        attention: The model's own attention.
        pairs: The split of each score: query component by key component, the scale included.
        position: What a label's position alone adds to its score (ALiBi); zero elsewhere.
        cap: The softcap (Gemma-2): ``score = cap * tanh((pairs + position) / cap)``; None elsewhere, where
            ``score = pairs + position``, pairs summed.
        demonstrations: What each label was shown with.
    """

    layer: int
    head: int
    components: tuple[str, ...]
    query: Float[Tensor, "*b d_head"]
    key: Float[Tensor, "*b label d_head"]
    score: Float[Tensor, "*b label"]
    attention: Float[Tensor, "*b label"]
    pairs: Float[Tensor, "*b label component component"]
    position: Float[Tensor, "*b label"]
    cap: float | None
    demonstrations: tuple[tuple[tuple[str, str], ...], ...]

    @property
    def by_query(self) -> Float[Tensor, "*b label component"]:
        """Return each component's share of each score on the query side."""
        return self.pairs.sum(-1)

    @property
    def by_key(self) -> Float[Tensor, "*b label component"]:
        """Return each component's share of each score on the key side."""
        return self.pairs.sum(-2)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per prompt, label and pair of components: ``prompt``, ``label``, ``text``, ``word``,
        ``query``, ``key``, ``score``."""
        pairs = self.pairs if self.pairs.ndim == 4 else self.pairs[None]
        index = pd.MultiIndex.from_product(
            [range(pairs.shape[0]), range(pairs.shape[1]), self.components, self.components],
            names=["prompt", "label", "query", "key"],
        )
        frame = pd.DataFrame({"score": pairs.flatten().tolist()}, index=index).reset_index()
        shown = [self.demonstrations[p][i] for p, i in zip(frame["prompt"], frame["label"], strict=True)]
        frame.insert(2, "text", [text for text, _ in shown])
        frame.insert(3, "word", [word for _, word in shown])
        return frame

    def table(self) -> Table:
        """Return a table of the first prompt's labels, their scores, and the strongest component on either side."""
        single = self if self.score.ndim == 1 else self._first
        sides = (single.by_query, single.by_key)
        rows = [
            (*shown, float(single.score[i]), float(single.attention[i]), *(self._strongest(side[i]) for side in sides))
            for i, shown in enumerate(self.demonstrations[0])
        ]
        more = "" if len(self.demonstrations) == 1 else f", the first of {len(self.demonstrations)} prompts"
        headings = ("demonstration", "label", "score", "attention", "most on the query side", "most on the key side")
        return Table(headings, rows, f"the towers of {head_name(self.layer, self.head)}{more}")

    @property
    def _first(self) -> "TwoTowers":
        names = ("query", "key", "score", "attention", "pairs", "position")
        return replace(self, **{name: getattr(self, name)[0] for name in names})

    def _strongest(self, contributions: Float[Tensor, "component"]) -> str:
        i = int(contributions.abs().argmax())
        return f"{self.components[i]} {float(contributions[i]):+.3f}"


@typechecked
@torch.no_grad()
def two_towers(
    cache: ActivationCache, prompts: Prompts, *, layer: int, head: int, heads: bool = False, model: Any = None
) -> TwoTowers:
    """Return what a head compares at the last position and at each label, and the split of its scores by component.

    Scores and attention are read from the cache. The vectors are the cache's queries and keys, rotated by their
    positions where the model does that; that their products are the scores, and that the parts add up to them, is
    checked.

    Args:
        cache: A full cache of the prompts, padded on the left if at all (or one made with :func:`needed_by_towers`).
        prompts: The prompts, in the order of the cache, all with the same number of demonstrations.
        layer: The head's layer.
        head: The head.
        heads: Whether earlier attention layers are split into heads, and what none of them wrote.
        model: The model that made the cache; ``cache.model`` by default.

    Raises:
        ValueError: If the cache is of other prompts or is refused, a label is outside the layer's attention window, or
            the architecture hides its scores (OPT, GPT-J, GPT-Neo) or makes them in a way not known here.
        IndexError: If the head is out of range.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompt = tna.incontext.from_demo(model, tna.demo.in_context(1, 4))[0]
        >>> _, cache = model.run_with_cache(tna.incontext.batch_of(model, [prompt]).tokens)
        >>> towers = two_towers(cache, prompt, layer=1, head=0)
        >>> towers.components
        ('embed', 'L0 attn', 'L0 mlp', 'bias')
        >>> bool(torch.allclose(towers.pairs.sum((-1, -2)), towers.score, atol=1e-4))
        True
    """
    group = as_list(prompts)
    stream, last, _ = checked_stream(cache, ("attn",), model=model, reads=True)
    within("layer", layer, stream.n_layers)
    stream.weights(layer).require_head(layer, head)
    attention_scores.require_scores(stream, layer)
    at = positions_of_labels(stream, group)
    score = at_labels(_last_scores(stream, layer), at)[:, head]
    attention = at_labels(last_attention(stream, layer), at)[:, head]
    _require_seen(score, layer)
    batch, labels = at.shape
    places = Positions(last.row.repeat_interleave(labels), at.flatten())

    names, query_components, query = score_components(stream, "q", layer, head, last, heads)
    _, key_components, key = score_components(stream, "k", layer, head, places, heads)
    key_components, key = key_components.unflatten(1, (batch, labels)), key.unflatten(0, (batch, labels))
    formula = attention_scores.AttentionScore.of(stream.model, layer)
    pairs = formula.scale * torch.einsum("abd,cbld->blac", query_components, key_components)
    require_finite(stream, pairs, "the towers' products")
    position = _position_term(formula, group, head).to(score)
    product = formula.scale * torch.einsum("bd,bld->bl", query, key)
    for whole in (product, pairs.sum((-1, -2))):
        attention_scores.require_formula(stream, pairs.abs().sum((-1, -2)), formula.capped(whole + position), score)

    def as_cached(values: Tensor) -> Tensor:
        return values if stream.batched else values[0]

    shown = tuple(tuple((text, p.labels[label]) for text, label in p.demonstrations) for p in group)
    return TwoTowers(
        layer=layer,
        head=head,
        components=names,
        query=as_cached(query),
        key=as_cached(key),
        score=as_cached(score),
        attention=as_cached(attention),
        pairs=as_cached(pairs),
        position=as_cached(position),
        cap=formula.cap,
        demonstrations=shown,
    )


@typechecked
@torch.no_grad()
def label_scores(
    cache: ActivationCache, prompts: Prompts, *, model: Any = None
) -> Float[Tensor, "*b layer head label"]:
    """Return each head's score of each label at the last position before the softmax, exactly as the model has it.

    A label outside a layer's attention window has the lowest number there is. Arguments and errors as in
    :func:`two_towers`.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompt = tna.incontext.from_demo(model, tna.demo.in_context(1, 4))[0]
        >>> _, cache = model.run_with_cache(tna.incontext.batch_of(model, [prompt]).tokens)
        >>> label_scores(cache, prompt).shape[-1]
        4
    """
    stream, _, _ = checked_stream(cache, ("attn",), model=model)
    at = positions_of_labels(stream, as_list(prompts))
    for layer in range(stream.n_layers):
        attention_scores.require_scores(stream, layer)
    found = torch.stack([at_labels(_last_scores(stream, layer), at) for layer in range(stream.n_layers)], dim=1)
    return found if stream.batched else found[0]


@typechecked
def needed_by_towers(name: str) -> bool:
    """Return whether :func:`two_towers` needs this hook; use it as a ``names_filter``.

    Examples:
        >>> needed_by_towers("blocks.0.attn.hook_attn_scores"), needed_by_towers("blocks.0.mlp.hook_post")
        (True, False)
    """
    return needed_by(("attn",))(name) or name.endswith(attention_scores.HOOKS)


def _last_scores(stream: Stream, layer: int) -> Float[Tensor, "batch head source"]:
    return attention_scores.cached_scores(stream, layer)[:, :, -1]


def _require_seen(score: Float[Tensor, "batch label"], layer: int) -> None:
    """Check that the layer attends to every label.

    Raises:
        ValueError: Naming the first.
    """
    masked = score <= torch.finfo(torch.float32).min / 2
    if bool(masked.any()):
        prompt, label = masked.nonzero()[0].tolist()
        raise ValueError(
            f"label {label} of prompt {prompt} is outside the attention window of layer {layer}, which gives it no "
            "score: take shorter prompts, or a layer that attends to all positions"
        )


def _position_term(
    formula: attention_scores.AttentionScore, prompts: Sequence[IclPrompt], head: int
) -> Float[Tensor, "batch label"]:
    """Return the term of the scores that depends on the labels' positions alone (ALiBi); zero elsewhere."""
    own = torch.tensor([prompt.label_positions for prompt in prompts])
    return own * (0.0 if formula.slopes is None else formula.slopes[head].to(own.device))
