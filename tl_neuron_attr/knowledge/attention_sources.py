"""Why a head looked where it did: its score of each source, split by the components that wrote query and key.

A head's score of a source is an inner product, before the softmax:

    s_p = scale * q . k_p (+ a term of the position, ALiBi; through a softcap, Gemma-2)

Query and key are linear in what every earlier component wrote into the stream, with the scales of all norms frozen and
both rotated by their positions (RoPE). So each score is a sum over pairs of components, one that wrote the query and
one that wrote the key: exactly, for any head and any prompt.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.knowledge.vocabulary import prompt_tokens
from tl_neuron_attr.model import attention_scores
from tl_neuron_attr.model.additive_checks import require_finite
from tl_neuron_attr.model.components import head_name
from tl_neuron_attr.model.positions import Positions
from tl_neuron_attr.model.score_components import score_components
from tl_neuron_attr.model.scored import checked_stream
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.within import within
from tl_neuron_attr.results.table import PrintsAsTable, Table
from tl_neuron_attr.results.token_text import visible


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class AttentionSources(PrintsAsTable):
    """A head's scores of the sources that one position sees; in the units of its scores.

    Attributes:
        layer: The head's layer.
        head: The head.
        pos: The position that attends.
        sources: The positions it sees: all up to its own, or those in the layer's window.
        tokens: The tokens there.
        components: What wrote the stream that the head reads, and ``bias``: what no component wrote.
        score: The model's own scores, before the softmax.
        attention: The model's own attention.
        pairs: The split of each score: query component by key component, the scale included.
        position: What a source's position alone adds to its score (ALiBi); zero elsewhere.
        cap: The softcap (Gemma-2): ``score = cap * tanh((pairs + position) / cap)``; None elsewhere, where
            ``score = pairs + position``, pairs summed.
    """

    layer: int
    head: int
    pos: int
    sources: tuple[int, ...]
    tokens: tuple[str, ...]
    components: tuple[str, ...]
    score: Float[Tensor, "source"]
    attention: Float[Tensor, "source"]
    pairs: Float[Tensor, "source component component"]
    position: Float[Tensor, "source"]
    cap: float | None

    @property
    def by_query(self) -> Float[Tensor, "source component"]:
        """Each component's share of each score on the query side."""
        return self.pairs.sum(-1)

    @property
    def by_key(self) -> Float[Tensor, "source component"]:
        """Each component's share of each score on the key side."""
        return self.pairs.sum(-2)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per source and pair of components: ``source``, ``token``, ``query``, ``key``, ``score``."""
        names = ["source", "query", "key"]
        index = pd.MultiIndex.from_product([self.sources, self.components, self.components], names=names)
        frame = pd.DataFrame({"score": self.pairs.flatten().tolist()}, index=index).reset_index()
        frame.insert(1, "token", frame["source"].map(dict(zip(self.sources, self.tokens, strict=True))))
        return frame

    def table(self) -> Table:
        """Return one row per source: token, score, attention, and the strongest component on either side."""
        rows = [
            (
                f"{visible(token)} @{source}",
                float(self.score[i]),
                float(self.attention[i]),
                self._strongest(self.by_query[i]),
                self._strongest(self.by_key[i]),
            )
            for i, (source, token) in enumerate(zip(self.sources, self.tokens, strict=True))
        ]
        headings = ("source", "score", "attention", "most on the query side", "most on the key side")
        return Table(headings, rows, f"{head_name(self.layer, self.head)} at position {self.pos}")

    def _strongest(self, contributions: Float[Tensor, "component"]) -> str:
        i = int(contributions.abs().argmax())
        return f"{self.components[i]} {float(contributions[i]):+.3f}"


@typechecked
@torch.no_grad()
def attention_sources(
    cache: ActivationCache, layer: int, head: int, pos: int = -1, *, heads: bool = False, model: Any = None
) -> AttentionSources:
    """Split a head's score of every source, at one position, by the components that wrote query and key.

    Scores and attention are read from the cache; that the parts add up to them is checked.

    Args:
        cache: A full cache of one prompt.
        layer: The head's layer.
        head: The head.
        pos: The position that attends; the last by default.
        heads: Whether earlier attention layers are split into heads, and what none of them wrote.
        model: The model that made the cache; ``cache.model`` by default.

    Raises:
        ValueError: If the cache holds several prompts, lacks a hook, or the architecture hides its scores (OPT, GPT-J,
            GPT-Neo) or makes them in a way not known here.
        IndexError: If the layer, head or position is out of range.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> found = attention_sources(cache, 3, 6)
        >>> found.tokens[int(found.score.argmax())].strip()
        'Tim'
        >>> bool(torch.allclose(found.pairs.sum((-1, -2)), found.score, atol=1e-4))
        True
    """
    stream, at, _ = checked_stream(cache, ("attn",), pos=pos, model=model, reads=True)
    if len(at) != 1:
        raise ValueError(f"cache holds {len(at)} prompts; attention_sources is of one: cache a single prompt")
    return split_scores(stream, at, layer, head, heads=heads)


def split_scores(stream: Stream, at: Positions, layer: int, head: int, *, heads: bool = False) -> AttentionSources:
    """Return what :func:`attention_sources` does, of a stream checked already; errors of layer and head as there."""
    within("layer", layer, stream.n_layers)
    stream.weights(layer).require_head(layer, head)
    attention_scores.require_scores(stream, layer)
    row, last = int(at.row[0]), int(at.pos[0])
    score = attention_scores.cached_scores(stream, layer)[row, head, last]
    seen = (score[: last + 1] > torch.finfo(torch.float32).min / 2).nonzero()[:, 0]
    places = Positions(torch.full_like(seen, row), seen)
    names, query_components, query = score_components(stream, "q", layer, head, at, heads)
    _, key_components, key = score_components(stream, "k", layer, head, places, heads)
    formula = attention_scores.AttentionScore.of(stream.model, layer)
    pairs = formula.scale * torch.einsum("ad,csd->sac", query_components[:, 0], key_components)
    require_finite(stream, pairs, "the products of query and key components")
    own = seen - seen[0]  # padding on the left, which is not seen, counts for no position
    position = (own * (0.0 if formula.slopes is None else formula.slopes[head].to(own.device))).to(score)
    for whole in (formula.scale * (key @ query[0]), pairs.sum((-1, -2))):
        attention_scores.require_formula(
            stream, pairs.abs().sum((-1, -2)), formula.capped(whole + position), score[seen]
        )
    ids = stream.tokens()
    tokens = (
        prompt_tokens(stream.model, ids)[row] if ids is not None else tuple(f"@{i}" for i in range(stream.shape[1]))
    )
    sources = tuple(seen.tolist())
    return AttentionSources(
        layer=layer,
        head=head,
        pos=last,
        sources=sources,
        tokens=tuple(tokens[i] for i in sources),
        components=names,
        score=score[seen],
        attention=stream.pattern(layer)[row, head, last, seen],
        pairs=pairs,
        position=position,
        cap=formula.cap,
    )
