"""The correction of majority-label bias: what heads read from the rarer label's demonstrations is added again.

With a softmax, more demonstrations of a label get more attention in total, whatever their texts. The paper adds, at the
last position (paper 2, Table 7; second-hand, the formula is our reading of a summary),

    h_T^L  <-  h_T^L + a_c * (N_maj / N_min) * sum_heads sum_{p of the rarer label} alpha_{T,p} W_O W_V norm(h_p)

to the final stream, with ``a_c`` = 0.03 and the sum over the in-context heads.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.incontext.icl_prompt import IclPrompt
from tl_neuron_attr.incontext.matched_run import MatchedRun
from tl_neuron_attr.model.components import NamedHeads, required_heads
from tl_neuron_attr.model.live_attention import Hook, LiveAttention, at_the_end

_Where = Literal["stream", "heads"]
"""Where the correction is added: to the final stream (the paper's), or to the heads' own outputs."""

HEADS_FIX = "give the (layer, head) pairs to correct, as in_context_heads(...).heads"
"""The fix in the error about an empty ``heads``."""


@typechecked
@torch.no_grad()
def majority_correction(
    model: Any,
    prompts: Sequence[IclPrompt],
    heads: NamedHeads,
    *,
    a_c: float | int = 0.03,
    where: _Where = "stream",
    renormalised: bool = False,
) -> list[Hook]:
    """Return hooks that add what heads read from the rarer label's demonstrations, for ``model.hooks(fwd_hooks=...)``.

    This is the fix of majority-label bias (paper 2, Table 7; second-hand; the formula, in this module's text, is our
    reading). Only the prompts' last position changes: in a generated text, with or without a key-value cache, that is
    the first new token, the label. If every label has the same number of demonstrations, nothing changes. With more
    than two labels, each that is rarer than the most frequent one is raised by its own ratio (derived here).

    Args:
        model: The model.
        prompts: The prompts that the model will be run on, in this order, with any padding on the left; they may be
            repeated as a whole.
        heads: ``(layer, head)`` pairs.
        a_c: The factor of the addition; the paper's is 0.03 (second-hand).
        where: ``"stream"`` adds to the final stream, as in the paper. ``"heads"`` adds to what each head writes, so
            that later layers read it as well.
        renormalised: Whether attention is divided by the head's attention to all labels; our source does not say.

    Raises:
        ValueError: If ``heads`` is empty or ``a_c`` is negative or not a number; and if the model is then run on other
            prompts, on a prompt whose beginning is only in a key-value cache, with a cache that TransformerLens loses,
            or (OPT, GPT-J, GPT-Neo) with ``where="heads"``.
        IndexError: If a head is out of range or named twice.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompts = tna.incontext.from_demo(model, tna.demo.in_context(2, 3, order=(0, 0, 1)))
        >>> tokens = tna.incontext.batch_of(model, prompts).tokens
        >>> with model.hooks(fwd_hooks=majority_correction(model, prompts, [(3, 4), (3, 7)], a_c=0.3)):
        ...     corrected = model(tokens)[:, -1].log_softmax(-1)
        >>> rarer = model.to_single_token("bar")
        >>> bool((corrected > model(tokens)[:, -1].log_softmax(-1))[:, rarer].all())  # it becomes likelier
        True
    """
    if not math.isfinite(a_c) or a_c < 0:
        raise ValueError(f"a_c must be a number not below 0, got {a_c}")
    named = required_heads(model, heads, fix=HEADS_FIX)
    matched = MatchedRun.of(model, prompts)
    layers = {layer: [h for at, h in named if at == layer] for layer in sorted({layer for layer, _ in named})}
    added = _Added(matched, *_weights(matched, float(a_c)), where, renormalised)
    hooks: list[Hook] = [matched.hook()]
    for layer, of_layer in layers.items():
        hooks += added.of_layer(LiveAttention.of(model, layer), of_layer)
    return [*hooks, at_the_end(model, added.to_stream)] if where == "stream" else hooks


def _weights(matched: MatchedRun, a_c: float) -> tuple[Float[Tensor, "prompt pos"], Float[Tensor, "prompt pos"]]:
    """Return ``a_c`` times its ratio at each rarer label and 0 elsewhere; and 1 at every label."""
    weights = torch.zeros(matched.tokens.shape, device=matched.tokens.device)
    labels = torch.zeros_like(weights)
    for i, prompt in enumerate(matched.prompts):
        for position, label in zip(prompt.label_positions, prompt.sequence, strict=True):
            at = matched.length - len(prompt) + position
            labels[i, at] = 1
            if prompt.counts[label] < max(prompt.counts):
                weights[i, at] = a_c * max(prompt.counts) / prompt.counts[label]
    return weights, labels


@dataclass
class _Added:
    """The addition of one run, summed layer by layer."""

    matched: MatchedRun
    weights: Float[Tensor, "prompt pos"]
    labels: Float[Tensor, "prompt pos"]
    where: _Where
    renormalised: bool
    total: Tensor | None = None

    def of_layer(self, live: LiveAttention, heads: list[int]) -> list[Hook]:
        """Return the hooks of one layer's heads."""

        def to_heads(z: Tensor, hook: Any) -> Tensor | None:
            if "pattern" not in live.kept:
                raise ValueError(
                    "where='heads' needs the attention before the heads have written, which layer "
                    f"{live.layer} does not show (OPT, GPT-J and GPT-Neo leave attention to Hugging Face): take "
                    "where='stream'"
                )
            pattern = live.kept.pop("pattern")
            row = self.matched.row(z.shape[1], pattern.shape[-1])
            if row is None:
                return None
            z = z.clone()
            z[:, row] += self._read(pattern[:, :, row], live.kept["v"], heads).to(z.dtype)
            return z

        def gather(out: Tensor, hook: Any) -> None:
            pattern = live.kept["pattern"]
            row = self.matched.row(out.shape[1], pattern.shape[-1])
            if row is None:
                return
            written = live.written(self._read(pattern[:, :, row], live.kept["v"], heads), row)
            self.total = written if self.total is None else self.total + written

        kept = live.values_and_pattern()
        return [*kept, live.at("z", to_heads) if self.where == "heads" else live.at("end", gather)]

    def to_stream(self, stream: Tensor, hook: Any) -> Tensor | None:
        """Add the sum to the stream at the prompts' last position."""
        if self.total is None:
            return None
        stream = stream.clone()
        stream[:, self.matched.last] += self.total.to(stream.dtype)
        self.total = None
        return stream

    def _read(
        self, pattern: Float[Tensor, "batch head key"], v: Float[Tensor, "batch pos kv d_head"], heads: list[int]
    ) -> Float[Tensor, "batch head d_head"]:
        """Return the addition to each head's output; zero for heads not named."""
        end = self.matched.length
        wide = torch.float64 if v.dtype == torch.float64 else torch.float32
        attention, copies = pattern[:, heads, :end].to(wide), len(pattern) // len(self.weights)
        if self.renormalised:
            labels = self.labels.to(wide).repeat(copies, 1)[:, None]
            attention = attention / (attention * labels).sum(-1, keepdim=True)
        weighted = attention * self.weights.to(wide).repeat(copies, 1)[:, None]
        values = v[:, :end].to(wide).repeat_interleave(pattern.shape[1] // v.shape[2], dim=2)[:, :, heads]
        extra = torch.zeros(len(v), pattern.shape[1], v.shape[-1], dtype=wide, device=v.device)
        extra[:, heads] = torch.einsum("bhs,bshd->bhd", weighted, values)
        return extra
