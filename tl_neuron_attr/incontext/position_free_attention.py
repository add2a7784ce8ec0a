"""The correction of recency bias: in-context heads attend without positions (paper 2, Table 8; second-hand).

Positions enter queries and keys, so late demonstrations get more attention. The paper removes that influence from the
attention scores of the in-context heads only and recomputes their outputs. What this means depends on the model; the
formulas are our reading:

* rotary positions: ``softmax(q . k * scale)`` of queries and keys before they are rotated;
* ALiBi (BLOOM): the same score without the bias that grows with the position;
* learned positions added to the embeddings (GPT-2): the score without the position embedding's own contribution to the
  head's input, the norm frozen: ``q - norm(e_pos) W_Q`` and ``k - norm(e_pos) W_K``. What earlier layers computed from
  the embedding stays.

Scores are recomputed, so they are checked against the model's own wherever positions cancel: a rotary score of a
position with itself, an ALiBi score up to a line, a GPT-2 score with its positions. If they disagree the run is
refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.incontext.icl_prompt import IclPrompt
from tl_neuron_attr.incontext.majority_correction import HEADS_FIX
from tl_neuron_attr.incontext.matched_run import MatchedRun, lost_context
from tl_neuron_attr.model.attention_scores import agrees
from tl_neuron_attr.model.components import NamedHeads, required_heads
from tl_neuron_attr.model.live_attention import Hook, LiveAttention

_KINDS = ("rotary", "alibi", "standard")
"""The kinds of positions, in TransformerLens's words, that can be left out of a score."""


@typechecked
@torch.no_grad()
def position_free_attention(
    model: Any, heads: NamedHeads, *, prompts: Sequence[IclPrompt] | None = None, share: float | int = 1.0
) -> list[Hook]:
    """Return hooks under which heads attend without the influence of positions, for ``model.hooks(fwd_hooks=...)``.

    This is the fix of recency bias (paper 2, Table 8; second-hand; this module's text says what it means for each kind
    of model).
    It works on padded batches and while a text is generated, with the same result with and without a key-value cache.

    Args:
        model: The model.
        heads: ``(layer, head)`` pairs.
        prompts: If given, only queries from these prompts' last position onwards are corrected, as in the paper's
            formula for the last position; by default the queries of every position.
        share: The share of the new attention; 1 replaces the old one and 0.5 is the mean of both. Whether the paper
            replaces attention or adds to it is unknown to us.

    Raises:
        ValueError: If ``heads`` is empty, ``share`` is not between 0 and 1, or the model has no positions of a known
            kind; and if the model is then run and its scores are not those of its queries and keys (OPT, GPT-J and
            GPT-Neo, whose attention TransformerLens leaves to Hugging Face, out of reach of hooks), if it attends to
            only one position, or continues from a key-value cache made without these hooks.
        IndexError: If a head is out of range or named twice.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompts = tna.incontext.from_demo(model, tna.demo.in_context(2, 4))
        >>> with model.hooks(fwd_hooks=position_free_attention(model, [(3, 4), (3, 7)])):
        ...     logits = model(tna.incontext.batch_of(model, prompts).tokens)
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie between 0 and 1, got {share}")
    named = required_heads(model, heads, fix=HEADS_FIX)
    kind = str(getattr(model.cfg, "positional_embedding_type", "none"))
    if kind not in _KINDS:
        raise ValueError(f"the model's positions are of the kind {kind!r}; position-free attention knows {_KINDS}")
    matched = None if prompts is None else MatchedRun.of(model, prompts)
    hooks: list[Hook] = [] if matched is None else [matched.hook()]
    for layer in sorted({layer for layer, _ in named}):
        of_layer = [head for at, head in named if at == layer]
        first = 0 if matched is None else matched.last
        hooks += _Layer(LiveAttention.of(model, layer), of_layer, kind, float(share), first).hooks()
    return hooks


@dataclass
class _Layer:
    """One layer's heads in a run, and the keys of the positions before it."""

    live: LiveAttention
    heads: list[int]
    kind: str
    share: float
    first: int
    before: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    new: Tensor | None = None
    dead: Tensor | None = None

    def hooks(self) -> list[Hook]:
        """Keep queries and keys, make new attention of them when the scores come, and put it into the pattern."""
        kept = [*self.live.queries_and_keys(), *(self.live.positions() if self.kind == "standard" else [])]
        return [*kept, self.live.at("scores", self._attend), self.live.at("pattern", self._put)]

    def _attend(self, scores: Float[Tensor, "batch head query key"], hook: Any) -> None:
        """Make what the heads attend to without positions."""
        if scores.shape[-1] == 1 or scores.shape[-1] <= self.first:
            raise ValueError(lost_context(scores.shape[-1]))
        own = scores[:, self.heads]
        masked = ~(own > torch.finfo(scores.dtype).min / 2)  # not a number where a prompt's padding attends to nothing
        total = scores.shape[-1]
        wide = torch.promote_types(scores.dtype, torch.float32)
        q, k = self.live.kept["q"].to(wide), self.live.kept["k"].to(wide)
        if self.kind == "standard":
            self._require(own, q, self._all_keys("with positions", k, total), masked)
            new = self._scores(*self._without_positions(q, k, total))
        else:
            keys = self._all_keys("as they are", k, total)
            self._require(own, q, keys, masked)
            new = self._scores(q, keys)
        self.new = new.masked_fill(masked, torch.finfo(wide).min).softmax(-1)
        self.dead = masked.all(-1, keepdim=True)

    def _put(self, pattern: Float[Tensor, "batch head query key"], hook: Any) -> Tensor:
        """Return the pattern with the heads' new attention, where queries are corrected at all."""
        if self.new is None or self.dead is None:
            self._refuse()
        old, attention, self.new = pattern[:, self.heads], self.new, None
        start = max(0, self.first - (pattern.shape[-1] - pattern.shape[-2]))
        new = self.share * attention + (1 - self.share) * old
        new = torch.where(self.dead, old, new).to(pattern.dtype)
        pattern = pattern.clone()
        pattern[:, self.heads, start:] = new[:, :, start:]
        return pattern

    def _all_keys(self, name: str, new: Float[Tensor, "batch kv pos d_head"], total: int) -> Tensor:
        """Return the keys of all positions attended to: those kept from earlier steps, and the new ones.

        Raises:
            ValueError: If the run goes on with a cache whose keys were not seen.
        """
        if new.shape[2] < total:
            before = self.before.get(name)
            if before is None or before.shape[2] + new.shape[2] != total or len(before) != len(new):
                raise ValueError(
                    f"layer {self.live.layer} attends to {total} positions, of which {total - new.shape[2]} are in a "
                    "key-value cache that these hooks have not seen, or that has dropped some: start generation under "
                    "the hooks, or generate with use_past_kv_cache=False"
                )
            new = torch.cat([before, new], dim=2)
        self.before[name] = new
        return new

    def _without_positions(
        self, q: Float[Tensor, "batch head query d_head"], k: Float[Tensor, "batch head key d_head"], total: int
    ) -> tuple[Tensor, Tensor]:
        """Return queries, and keys of all positions, without what the position embedding brings to them."""
        keys = self._all_keys("without positions", k - self.live.of_positions("k").to(k.dtype), total)
        return q - self.live.of_positions("q").to(q.dtype), keys

    def _scores(
        self, q: Float[Tensor, "batch head query d_head"], k: Float[Tensor, "batch kv key d_head"]
    ) -> Float[Tensor, "batch chosen query key"]:
        score = self.live.score
        return score.capped(score.products(q, k)[:, self.heads])

    def _require(
        self,
        scores: Float[Tensor, "batch chosen query key"],
        q: Float[Tensor, "batch head query d_head"],
        k: Float[Tensor, "batch kv key d_head"],
        masked: Bool[Tensor, "batch chosen query key"],
    ) -> None:
        """Refuse where what queries and keys give is not the model's score, where positions cancel.

        Raises:
            ValueError: Naming the layer.
        """
        apart = (scores - self._scores(q, k)).masked_fill(masked, 0)
        if self.kind == "rotary":
            apart = apart.diagonal(scores.shape[-1] - scores.shape[-2], -2, -1)
        elif self.kind == "alibi":
            behind_masked = masked[:, :, -1].cumsum(-1)[..., 2:] < masked[:, :, -1].sum(-1, keepdim=True)
            apart = apart[:, :, -1].diff(n=2).masked_fill(behind_masked | masked[:, :, -1, :-2], 0)
        sizes = self.live.score.products(q.norm(dim=-1, keepdim=True), k.norm(dim=-1, keepdim=True))[:, self.heads]
        if not agrees(apart, sizes.masked_fill(masked, 0), scores.dtype):
            self._refuse()

    def _refuse(self) -> NoReturn:
        raise ValueError(
            f"layer {self.live.layer}: the attention scores are not what queries and keys give, so position-free ones "
            "cannot be put in their place; OPT, GPT-J and GPT-Neo leave attention to Hugging Face, where hooks on "
            "scores change nothing"
        )
