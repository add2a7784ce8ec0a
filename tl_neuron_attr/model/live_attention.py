"""A layer's attention while the model runs: what its hooks show of it, and what its weights make of that.

A correction keeps what passes in one forward pass and changes what comes later in the same pass; hook names and weights
stay here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr.model.attention_scores import AttentionScore, QueryOrKey, split_heads
from tl_neuron_attr.model.intervene import Hook
from tl_neuron_attr.model.weights import BlockWeights, block_weights

Point = Literal["scores", "pattern", "z", "end"]
"""Where a run can be changed: before and after the softmax, at what heads read, and at the layer's end."""

_POINTS: dict[Point, str] = {
    "scores": "attn.hook_attn_scores",
    "pattern": "attn.hook_pattern",
    "z": "attn.hook_z",
    "end": "hook_resid_post",
}


def _keep(kept: dict[str, Tensor], name: str, form: Callable[[Tensor], Tensor] | None = None) -> Callable[..., None]:
    """Return a hook function that keeps what passes, as ``form`` makes it, and changes nothing."""

    def of_hook(value: Tensor, hook: Any) -> None:
        kept[name] = value if form is None else form(value)

    return of_hook


@dataclass
class LiveAttention:
    """One layer's attention in a run.

    Attributes:
        weights: The block's weights.
        score: How its heads make their scores.
        layer: The layer.
        kept: What was kept of the pass that is under way: ``q`` and ``k`` (after their norm, if any, before they are
            rotated; ``[batch, head, pos, d_head]``), ``v`` (``[batch, pos, kv, d_head]``), ``pattern``, the scales of
            the norms, and the position embedding.
    """

    weights: BlockWeights
    score: AttentionScore
    layer: int
    kept: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    @classmethod
    def of(cls, model: Any, layer: int) -> "LiveAttention":
        """Return the attention of a layer of the model.

        Raises:
            IndexError: If there is no such layer, with the valid range.
        """
        return cls(block_weights(model, layer), AttentionScore.of(model, layer), layer)

    def at(self, point: Point, function: Callable[..., Tensor | None]) -> Hook:
        """Return the hook that gives ``function`` what passes at a point of this layer."""
        return f"blocks.{self.layer}.{_POINTS[point]}", function

    def queries_and_keys(self) -> list[Hook]:
        """Return the hooks that keep queries and keys; where these pass a norm, what leaves it."""
        hooks: list[Hook] = []
        for side in ("q", "k"):
            hooks.append(self._keep(f"attn.hook_{side}", side, lambda value: value.transpose(1, 2)))
            if hasattr(self.weights.block.attn, f"hook_{side}_normed"):
                normed = self._keep(f"attn.hook_{side}_normed", side, lambda x: split_heads(x, self.weights.d_head))
                hooks.append(normed)
        return hooks

    def values_and_pattern(self) -> list[Hook]:
        """Return the hooks that keep values and pattern, and the scale of the norm after attention, if there is one."""
        after = self.weights.post_norm["attn"]
        hooks = [self._keep("attn.hook_v", "v"), self._keep("attn.hook_pattern", "pattern")]
        return [*hooks, self._keep(f"{after}.hook_scale", "output scale")] if after else hooks

    def positions(self) -> list[Hook]:
        """Return the hooks that keep the position embedding, and the scale of the norm that attention reads through."""
        before = self.weights.pre_norm["attn"]
        hooks: list[Hook] = [("hook_pos_embed", _keep(self.kept, "position embedding"))]
        return [*hooks, self._keep(f"{before}.hook_scale", "input scale")] if before else hooks

    def of_positions(self, side: QueryOrKey) -> Float[Tensor, "batch head pos d_head"]:
        """Return what the position embedding brings to the layer's queries or keys, the norm's scale frozen."""
        embedding = self.kept["position embedding"]
        wide = torch.promote_types(embedding.dtype, torch.float32)
        embedding = embedding.to(wide)
        if name := self.weights.pre_norm["attn"]:
            scale = self.kept["input scale"].to(wide)
            embedding = self.weights.norm(name, wide).apply_unscaled(embedding) / scale
        return torch.einsum("bpe,hed->bhpd", embedding, self.weights.by_head(side).to(wide))

    def written(self, read: Float[Tensor, "batch head d_head"], row: int) -> Float[Tensor, "batch d_model"]:
        """Return what heads write into the stream at position ``row`` of the run if ``read`` is what they read.

        Through the norm after attention, its scale frozen, and the residual multiplier.
        """
        wrote = torch.einsum("bhd,hde->be", read, self.weights.W_O.to(read.dtype))
        if name := self.weights.post_norm["attn"]:
            scale = self.kept["output scale"][:, row, 0].to(read.dtype)
            wrote = replace(self.weights.norm(name, read.dtype), scale=scale)(wrote)
        return wrote * self.weights.multiplier

    def _keep(self, hook: str, name: str, form: Callable[[Tensor], Tensor] | None = None) -> Hook:
        return f"blocks.{self.layer}.{hook}", _keep(self.kept, name, form)


def at_the_end(model: Any, function: Callable[..., Tensor | None]) -> Hook:
    """Return the hook that gives ``function`` the final stream, before the final norm."""
    return f"blocks.{model.cfg.n_layers - 1}.hook_resid_post", function
