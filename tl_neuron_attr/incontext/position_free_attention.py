"""The correction of recency bias: in-context heads attend as if no position were encoded (paper 2; second-hand).

Positions enter queries and keys, so late demonstrations get more attention. The paper removes that influence from the
attention scores of the in-context heads only and recomputes their outputs. What it means depends on the model, and the
formulas are our reading:

* rotary positions: ``softmax(q . k * scale)`` of queries and keys before they are rotated;
* ALiBi (BLOOM): the same score without the bias that grows with the position;
* learned positions added to the embeddings (GPT-2): without what the position embedding itself brings to the head's
  input, the norm frozen: ``q - norm(e_pos) W_Q`` and ``k - norm(e_pos) W_K``. What earlier layers made of it stays.

Scores are recomputed, so they are checked against the model's own wherever positions cancel: a rotary score of a
position with itself, an ALiBi score up to a line, a GPT-2 score with its positions. If they disagree the run is
refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.incontext.majority_correction import CORRECTED
from tl_neuron_attr.incontext.matched_run import Watch, dropped, keep
from tl_neuron_attr.incontext.outcomes import Hook
from tl_neuron_attr.incontext.prompts import IclPrompt
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.components import NamedHeads, required_heads
from tl_neuron_attr.model.weights import pre_norm_name, unit_norm

_CLOSE = {torch.float64: 1e-5, torch.float32: 1e-3}
"""How near recomputed scores must be to the model's own, relative to the largest; 0.05 in half precision."""

_KINDS = ("rotary", "alibi", "standard")


@typechecked
@torch.no_grad()
def position_free_attention(
    model: Any, heads: NamedHeads, *, prompts: Sequence[IclPrompt] | None = None, share: float | int = 1.0
) -> list[Hook]:
    """Hooks under which heads attend without the influence of positions, for ``model.hooks(fwd_hooks=...)``.

    Paper 2, the fix of recency bias (second-hand; see this module's text for what it means in which model). Works on
    padded batches and while a text is generated, with a key-value cache or without: both give the same.

    Args:
        model: The model.
        heads: ``(layer, head)`` pairs.
        prompts: If given, only queries from these prompts' last position on are corrected, as in the paper's formula,
            which is about the last position; by default those of every position.
        share: How much of the new attention is taken; 1 replaces the old one. Whether the paper replaces it or adds to
            it is not known to us; 0.5 is the mean of both.

    Raises:
        ValueError: If ``heads`` is empty, ``share`` is not between 0 and 1, or the model has no positions of a known
            kind; and when the model is run and its scores are not what queries and keys give (OPT, GPT-J and GPT-Neo,
            whose attention TransformerLens leaves to Hugging Face, where no hook can change it), when it attends to
            one position only, or when it goes on with a key-value cache that was made without these hooks.
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
    named = required_heads(model, heads, fix=CORRECTED)
    kind = str(getattr(model.cfg, "positional_embedding_type", "none"))
    if kind not in _KINDS:
        raise ValueError(f"the model's positions are of the kind {kind!r}; position-free attention knows {_KINDS}")
    watch = None if prompts is None else Watch.of(model, prompts)
    hooks: list[Hook] = [] if watch is None else [watch.hook()]
    positions: dict[str, Tensor] = {}
    if kind == "standard":
        hooks.append(("hook_pos_embed", keep(positions, "embedding")))
    for layer in sorted({layer for layer, _ in named}):
        of_layer = [head for at, head in named if at == layer]
        free = _Layer(model, layer, of_layer, kind, float(share), 0 if watch is None else watch.last, positions)
        hooks += free.hooks()
    return hooks


@dataclass
class _Layer:
    """One layer's heads in a run, and the keys of the positions before it."""

    model: Any
    layer: int
    heads: list[int]
    kind: str
    share: float
    first: int
    positions: dict[str, Tensor]
    kept: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def hooks(self) -> list[Hook]:
        """Queries and keys are kept, new attention is made of them when the scores come, and put into the pattern.

        Where queries and keys pass a norm (Qwen-3, Gemma-3, OLMo-2), what leaves it is kept instead.
        """
        attn = self.model.blocks[self.layer].attn
        kept: list[tuple[str, Callable[..., Tensor | None]]] = []
        for side in ("q", "k"):
            kept.append((f"attn.hook_{side}", keep(self.kept, side, lambda value: value.transpose(1, 2))))
            if hasattr(attn, f"hook_{side}_normed"):
                kept.append((f"attn.hook_{side}_normed", keep(self.kept, side, self._split)))
        if self.kind == "standard":
            norm = pre_norm_name(self.model.blocks[self.layer], "attn")
            kept.append((f"{norm}.hook_scale", keep(self.kept, "scale")))
        kept += [("attn.hook_attn_scores", self._attend), ("attn.hook_pattern", self._put)]
        return [(f"blocks.{self.layer}.{name}", hook) for name, hook in kept]

    def _split(self, normed: Tensor) -> Float[Tensor, "batch head pos d_head"]:
        """Queries or keys behind their norm: OLMo-2 norms all heads together, the others each."""
        if normed.ndim == 4:
            return normed
        return normed.unflatten(-1, (-1, dimensions.d_head(self.model, self.layer))).transpose(1, 2)

    def _attend(self, scores: Float[Tensor, "batch head query key"], hook: Any) -> None:
        """Keeps what the heads attend to without positions."""
        if scores.shape[-1] == 1 or scores.shape[-1] <= self.first:
            raise ValueError(dropped(scores.shape[-1]))
        own = scores[:, self.heads]
        masked = own <= torch.finfo(scores.dtype).min / 2
        q, k, total = self.kept["q"], self.kept["k"], scores.shape[-1]
        wide = torch.promote_types(q.dtype, torch.float32)
        q, k = q.to(wide), k.to(wide)
        plain_q, plain_k = (q, k) if self.kind != "standard" else (self._without(q, "W_Q"), self._without(k, "W_K"))
        if self.kind == "standard":
            self._require(own, self._scores(q, self._all_keys("with", k, total)), masked)
        new = self._scores(plain_q, self._all_keys("without", plain_k, total))
        if self.kind != "standard":
            self._require(own, new, masked)
        attention = new.masked_fill(masked, torch.finfo(wide).min).softmax(-1)
        self.kept["new"] = attention
        self.kept["dead"] = masked.all(-1, keepdim=True)

    def _put(self, pattern: Float[Tensor, "batch head query key"], hook: Any) -> Tensor:
        """The pattern with the heads' new attention, where queries are corrected at all."""
        if "new" not in self.kept:
            self._refuse()
        old, attention = pattern[:, self.heads], self.kept.pop("new")
        start = max(0, self.first - (pattern.shape[-1] - pattern.shape[-2]))
        new = self.share * attention + (1 - self.share) * old
        new = torch.where(self.kept["dead"], old, new).to(pattern.dtype)
        pattern = pattern.clone()
        pattern[:, self.heads, start:] = new[:, :, start:]
        return pattern

    def _all_keys(self, name: str, new: Float[Tensor, "batch kv pos d_head"], total: int) -> Tensor:
        """The keys of all positions attended to: those kept from earlier steps, and the new ones.

        Raises:
            ValueError: If the run goes on with a cache whose keys were not seen.
        """
        if new.shape[2] < total:
            before = self.kept.get(name)
            if before is None or before.shape[2] + new.shape[2] != total or len(before) != len(new):
                raise ValueError(
                    f"layer {self.layer} attends to {total} positions, of which {total - new.shape[2]} are in a "
                    "key-value cache that these hooks have not seen, or that has dropped some: start generation under "
                    "the hooks, or generate with use_past_kv_cache=False"
                )
            new = torch.cat([before, new], dim=2)
        self.kept[name] = new
        return new

    def _scores(
        self, q: Float[Tensor, "batch head query d_head"], k: Float[Tensor, "batch kv key d_head"]
    ) -> Float[Tensor, "batch chosen query key"]:
        attn: Any = self.model.blocks[self.layer].attn
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        scores = torch.einsum("bhqd,bhkd->bhqk", q[:, self.heads], k[:, self.heads]) * _scale(attn, q.shape[-1])
        cap = getattr(attn.original_component, "attn_logit_softcapping", None)
        return scores if cap is None else cap * (scores / cap).tanh()

    def _without(self, vectors: Float[Tensor, "batch head pos d_head"], weight: str) -> Tensor:
        """Queries or keys without what the position embedding brings to the head's input, the norm frozen."""
        block = self.model.blocks[self.layer]
        embedding = self.positions["embedding"].to(vectors.dtype).expand(len(vectors), -1, -1)
        norm = unit_norm(getattr(block, pre_norm_name(block, "attn")), vectors.dtype)
        brought = replace(norm, scale=torch.ones(1, dtype=vectors.dtype, device=vectors.device)).apply_unscaled(
            embedding
        )
        brought = brought / self.kept["scale"].to(vectors.dtype)
        return vectors - torch.einsum("bpe,hed->bhpd", brought, getattr(block.attn, weight).to(vectors.dtype))

    def _require(
        self,
        scores: Float[Tensor, "batch chosen query key"],
        ours: Float[Tensor, "batch chosen query key"],
        masked: Bool[Tensor, "batch chosen query key"],
    ) -> None:
        """Refuses where what queries and keys give is not the model's score, where positions cancel.

        Raises:
            ValueError: Naming the layer.
        """
        apart = (scores - ours).masked_fill(masked, 0)
        if self.kind == "rotary":
            apart = apart.diagonal(scores.shape[-1] - scores.shape[-2], -2, -1)
        elif self.kind == "alibi":
            behind_masked = masked[:, :, -1].cumsum(-1)[..., 2:] < masked[:, :, -1].sum(-1, keepdim=True)
            apart = apart[:, :, -1].diff(n=2).masked_fill(behind_masked | masked[:, :, -1, :-2], 0)
        largest = 1 + float(scores.masked_fill(masked, 0).abs().max())
        if bool((apart.abs() > _CLOSE.get(scores.dtype, 0.05) * largest).any()):
            self._refuse()

    def _refuse(self) -> None:
        raise ValueError(
            f"layer {self.layer}: the attention scores are not what queries and keys give, so position-free ones "
            "cannot be put in their place; OPT, GPT-J and GPT-Neo leave attention to Hugging Face, where hooks on "
            "scores change nothing"
        )


def _scale(attn: Any, d_head: int) -> float:
    """What the model multiplies scores with."""
    for name in ("scaling", "inv_norm_factor"):
        if (value := getattr(attn.original_component, name, None)) is not None:
            return float(value)
    return d_head**-0.5
