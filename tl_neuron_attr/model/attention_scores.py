"""How a head makes its score of a query and a key, and what vectors of the stream are in either.

    score = cap(scale * (R norm(q)) . (R norm(k)) + bias)      q = W_Q ln(h) + b_Q,  k = W_K ln(h) + b_K

``R`` rotates by the position (RoPE), ``norm`` is that of queries and keys (Qwen-3, Gemma-3, OLMo-2), ``cap`` a softcap
(Gemma-2), ``bias`` a term of the position alone (ALiBi). With the norms' scales frozen all but the cap is linear in
what was written into the stream. The softmax of a head's scores over the positions is its attention pattern (paper 1,
Eq. 8, where the score is ``q . k`` alone). Wherever the formula is used it is checked on the model's own scores.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge.generalized_components.alibi_utils import build_alibi_slopes

from tl_neuron_attr.model.additive_checks import tolerance
from tl_neuron_attr.model.norms import unit_norm
from tl_neuron_attr.model.positions import Positions
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.weights import block_weights

QueryOrKey = Literal["q", "k"]
HOOKS = ("attn.hook_attn_scores", "attn.hook_q", "attn.hook_k", "attn.hook_cos", "attn.hook_sin",
         "attn.hook_q_normed", "attn.hook_k_normed", "q_norm.hook_scale", "k_norm.hook_scale")  # fmt: skip
"""What scores are read from; of the last six, those that the architecture has."""

_SCALES = ("scaling", "inv_norm_factor")
"""What attention modules of transformers call the factor of their scores (the second is BLOOM's and Falcon's)."""


@dataclass(frozen=True)
class AttentionScore:
    """What becomes of a product of a query and a key in the heads of one layer.

    Attributes:
        scale: What the product is multiplied with.
        cap: The softcap, if there is one.
        slopes: By head, what each token from the prompt's start adds to the score of the key there (ALiBi); else None.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> score = AttentionScore.of(tna.demo.load(), 0)
        >>> q, k = torch.ones(1, 8, 1, 16), torch.ones(1, 8, 1, 16)
        >>> float(score.products(q, k)[0, 0, 0, 0]) == 16 * 16**-0.5  # 16 dimensions a head
        True
    """

    scale: float
    cap: float | None
    slopes: Float[Tensor, "head"] | None

    @classmethod
    def of(cls, model: Any, layer: int) -> "AttentionScore":
        """Return how the heads of a layer make their scores."""
        weights = block_weights(model, layer)
        own, heads, d_head = weights.block.attn.original_component, weights.n_heads, weights.d_head
        named = [value for name in _SCALES if (value := getattr(own, name, None)) is not None]
        alibi = getattr(model.cfg, "positional_embedding_type", "") == "alibi"
        return cls(
            scale=float(named[0]) if named else d_head**-0.5,
            cap=getattr(own, "attn_logit_softcapping", None),
            slopes=build_alibi_slopes(heads, model.W_U.device) if alibi else None,
        )

    def capped(self, scores: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Return scores after the softcap, if the model has one."""
        return scores if self.cap is None else self.cap * (scores / self.cap).tanh()

    def products(
        self, q: Float[Tensor, "batch head query d_head"], k: Float[Tensor, "batch kv key d_head"]
    ) -> Float[Tensor, "batch head query key"]:
        """Return scaled products of queries with keys that heads may share, before position and cap."""
        return self.scale * torch.einsum("bhqd,bhkd->bhqk", q, k.repeat_interleave(q.shape[1] // k.shape[1], dim=1))


def agrees(apart: Float[Tensor, "*n"], size: Float[Tensor, "*m"], dtype: torch.dtype) -> bool:
    """Return whether scores by the formula are the model's own, for activations of ``dtype``.

    Args:
        apart: The differences.
        size: The sizes of the products that were added: what their sum's rounding is relative to.
        dtype: The dtype of the model's activations.
    """
    return bool(apart.abs().max() <= tolerance(dtype) * (1 + size.max())) if apart.numel() else True


def require_formula(
    stream: Stream, product: Float[Tensor, "*n"], formed: Float[Tensor, "*n"], score: Float[Tensor, "*n"]
) -> None:
    """Refuse where the formula does not give the cached scores.

    Args:
        stream: The stream.
        product: The sizes of the products that were added.
        formed: The scores by the formula.
        score: The cached scores.

    Raises:
        ValueError: With the largest difference.
    """
    if not agrees(formed - score, product, stream.cache["blocks.0.hook_resid_pre"].dtype):
        raise ValueError(
            "this architecture makes its attention scores in another way: the towers' product is off by "
            f"{float((formed - score).abs().max()):.2g}; label_scores and label_attention still give what the model "
            "has. If a hook edits queries, keys or scores, make the cache without it"
        )


def require_projection(
    stream: Stream,
    components: Float[Tensor, "component *n d_head"],
    vector: Float[Tensor, "*n d_head"],
    side: QueryOrKey,
    layer: int,
) -> None:
    """Refuse where the components of a head's queries or keys, which the weights give, do not sum to the cached ones.

    Raises:
        ValueError: Saying that the weights are not those of the run.
    """
    if not agrees(components.sum(0) - vector, components.abs().sum(0), stream.cache["blocks.0.hook_resid_pre"].dtype):
        name = {"q": "queries", "k": "keys"}[side]
        raise ValueError(
            f"the model's weights do not give the cached {name} of layer {layer}. They were changed since the run, an "
            f"adapter is attached (merge it, and make the cache anew), or this architecture makes its {name} otherwise"
        )


def require_scores(stream: Stream, layer: int) -> None:
    """Refuse a cache without a layer's scores, or that holds something else in their place.

    Raises:
        ValueError: Naming what is missing, or that the architecture hides its scores.
    """
    missing = [name for hook in HOOKS[:3] if not stream.has(name := f"blocks.{layer}.{hook}")]
    if missing:
        raise ValueError(
            f"cache lacks {', '.join(missing)}; run_with_cache without names_filter, or with "
            "names_filter=tna.incontext.needed_by_towers"
        )
    scores, pattern = (stream.get(f"blocks.{layer}.attn.{name}") for name in ("hook_attn_scores", "hook_pattern"))
    if torch.equal(scores, pattern):
        raise ValueError(
            f"this architecture hides its scores: {type(stream.block(layer).attn).__name__} leaves attention to "
            "transformers (OPT, GPT-J, GPT-Neo), and hook_attn_scores holds what the softmax made of them; use "
            "label_attention"
        )


def cached_scores(stream: Stream, layer: int) -> Float[Tensor, "batch head query source"]:
    """Return the model's own scores, before the softmax."""
    return stream.get(f"blocks.{layer}.attn.hook_attn_scores")


def cached_vector(
    stream: Stream, side: QueryOrKey, layer: int, head: int, places: Positions
) -> Float[Tensor, "batch d_head"]:
    """Return the head's query or key at each place as the model multiplies it: after its norm, if any, and rotated."""
    own = _own(stream, side, layer, head)
    name = f"blocks.{layer}.attn.hook_{side}"
    if not stream.has(f"{name}_normed"):
        return rotated(stream, layer, stream.at(name, places)[:, own], places)
    normed = split_heads(stream.get(f"{name}_normed"), stream.get(name).shape[-1])
    return rotated(stream, layer, normed[places.row, own, places.pos], places)


def split_heads(normed: Tensor, d_head: int) -> Float[Tensor, "batch head pos d_head"]:
    """Return queries or keys after their norm by head: OLMo-2 norms all heads in a row, the others each."""
    return normed if normed.ndim == 4 else normed.unflatten(-1, (-1, d_head)).transpose(1, 2)


def project(
    stream: Stream,
    side: QueryOrKey,
    layer: int,
    head: int,
    places: Positions,
    vectors: Float[Tensor, "term batch d_model"],
) -> Float[Tensor, "component batch d_head"]:
    """Return what vectors of the stream at each place are in the head's query or key, the norms' scales frozen.

    The last row is what nothing in the stream wrote: the biases of the norm and of the projection.
    """
    weights = stream.weights(layer)
    weight, bias = weights.projection(side, head)
    weight = weight.to(stream.dtype)
    constant = torch.zeros(len(places), weight.shape[1]).to(vectors)
    if bias is not None:
        constant = constant + bias.to(stream.dtype)
    if name := weights.pre_norm["attn"]:
        norm, norm_bias = stream.norm(layer, name, places), weights.norm_bias(name)
        vectors = norm.apply_unscaled(vectors) / norm.scale[:, None]
        constant = constant if norm_bias is None else constant + norm_bias.to(stream.dtype) @ weight
    components = torch.cat([vectors @ weight, constant[None]])
    return rotated(stream, layer, _normed(stream, side, layer, head, places, components), places)


def rotated(
    stream: Stream, layer: int, vectors: Float[Tensor, "*n batch d_head"], places: Positions
) -> Float[Tensor, "*n batch d_head"]:
    """Return queries or keys rotated by their positions, where the model does that."""
    if not stream.has(f"blocks.{layer}.attn.hook_cos"):
        return vectors
    cos, sin = (_at_places(stream, f"blocks.{layer}.attn.hook_{name}", places) for name in ("cos", "sin"))
    moving, still = vectors[..., : cos.shape[-1]], vectors[..., cos.shape[-1] :]
    if getattr(stream.model.cfg, "rotary_interleaved_cos_sin", False):  # Cohere rotates neighbours, others the halves
        partner = torch.stack((-moving[..., 1::2], moving[..., ::2]), dim=-1).flatten(-2)
    else:
        first, second = moving.chunk(2, dim=-1)
        partner = torch.cat((-second, first), dim=-1)
    return torch.cat((moving * cos + partner * sin, still), dim=-1)


def _normed(
    stream: Stream,
    side: QueryOrKey,
    layer: int,
    head: int,
    places: Positions,
    components: Float[Tensor, "component batch d_head"],
) -> Float[Tensor, "component batch d_head"]:
    """Return components of queries or keys after their norm, if the model has one, its scale frozen."""
    module = getattr(stream.weights(layer).live.attn, f"{side}_norm", None)
    name = f"blocks.{layer}.attn.{side}_norm.hook_scale"
    if module is None or not stream.has(name):
        return components
    own, scale, d_head = _own(stream, side, layer, head), stream.get(name), components.shape[-1]
    if scale.ndim == 3:  # one scale for all heads in a row (OLMo-2), whose weights are in a row too
        weight = unit_norm(module, stream.dtype, components[0, 0].repeat(stream.weights(layer).n_heads)).weight
        return components * weight.reshape(-1, d_head)[own] / scale[places.row, places.pos]
    norm = unit_norm(module, stream.dtype, components[0, 0])
    return norm.apply_unscaled(components) / scale[places.row, own, places.pos]


def _own(stream: Stream, side: QueryOrKey, layer: int, head: int) -> int:
    """Return which of the cached queries or keys is the head's: heads may share keys."""
    return head // stream.weights(layer).shared_by(side)


def _at_places(stream: Stream, name: str, places: Positions) -> Float[Tensor, "batch d_rotary"]:
    """Return a cosine or sine, cached once for all prompts or for each."""
    value = stream.get(name)
    return value.expand(stream.shape[0], -1, -1)[places.row, places.pos]
