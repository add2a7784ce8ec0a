"""A head's score as the model makes it from what its query and key read; with the stream, a file that knows models.

    score = cap(scale * (R norm(q)) . (R norm(k)) + bias)      q = W_Q ln(h) + b_Q,  k = W_K ln(h) + b_K

``R`` turns by the position (rotary), ``norm`` is that of queries and keys (Qwen-3, Gemma-3, OLMo-2), ``cap`` a softcap
(Gemma-2), ``bias`` a term of the position alone (ALiBi). With the norms' scales frozen all but the cap is linear in
what was written into the stream. Scores are read from the cache; wherever the formula is used it is checked on them.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge.generalized_components.alibi_utils import build_alibi_slopes

from tl_neuron_attr.model.cache_checks import tolerance
from tl_neuron_attr.model.positions import Positions
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.weights import pre_norm_name, unit_norm

Side = Literal["q", "k"]
HOOKS = ("attn.hook_attn_scores", "attn.hook_q", "attn.hook_k", "attn.hook_cos", "attn.hook_sin",
         "attn.hook_q_normed", "attn.hook_k_normed", "q_norm.hook_scale", "k_norm.hook_scale")  # fmt: skip
"""What scores are read from; of the last six, those that the architecture has."""


@dataclass(frozen=True)
class Form:
    """What becomes of a product of a head's query and key.

    Attributes:
        scale: What the product is multiplied with.
        cap: The softcap, if there is one.
        slope: What a position adds to the score of a key there, for each token from the prompt's start (ALiBi).
    """

    scale: float
    cap: float | None
    slope: float

    def score(self, product: Float[Tensor, "*n"], position: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The score of scaled products."""
        whole = product + position
        return whole if self.cap is None else self.cap * (whole / self.cap).tanh()


def form(stream: Stream, layer: int, head: int) -> Form:
    """How a head of the model makes its scores."""
    block, cfg = stream.block(layer), stream.model.cfg
    own: Any = block.attn.original_component
    heads, d_head = block.attn.W_O.shape[:2]
    scale = getattr(own, "scaling", None) or d_head**-0.5
    alibi = getattr(cfg, "positional_embedding_type", "") == "alibi"
    slope = float(build_alibi_slopes(heads, stream.device)[head]) if alibi else 0.0
    return Form(float(scale), getattr(own, "attn_logit_softcapping", None), slope)


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


def read(stream: Stream, side: Side, layer: int, head: int, places: Positions) -> Float[Tensor, "batch d_head"]:
    """The head's query or key at each place as the model multiplies it: normed where it is, turned by its position."""
    own = _own(stream, side, layer, head)
    name = f"blocks.{layer}.attn.hook_{side}"
    if not stream.has(f"{name}_normed"):
        return turned(stream, layer, stream.at(name, places)[:, own], places)
    normed = stream.get(f"{name}_normed")
    heads, d_head = stream.get(name).shape[2:]
    if normed.ndim == 3:  # all heads in a row (OLMo-2)
        normed = normed.unflatten(-1, (heads, d_head)).transpose(1, 2)
    return turned(stream, layer, normed[places.row, own, places.pos], places)


def project(
    stream: Stream, side: Side, layer: int, head: int, places: Positions, vectors: Float[Tensor, "part batch d_model"]
) -> Float[Tensor, "component batch d_head"]:
    """What vectors of the stream at each place are in the head's query or key, the norms' scales frozen.

    The last row is what nothing in the stream wrote: the biases of the norm and of the projection.
    """
    block, own = stream.block(layer), _own(stream, side, layer, head)
    W = getattr(block.attn, f"W_{side.upper()}")[own].to(stream.dtype)
    bias = getattr(block.attn, f"b_{side.upper()}", None)
    constant = torch.zeros(len(places), W.shape[1]).to(vectors)
    if bias is not None:
        constant = constant + bias.reshape(-1, W.shape[1])[own].to(stream.dtype)
    if name := pre_norm_name(block, "attn"):
        norm, norm_bias = stream.norm(layer, name, places), getattr(getattr(block, name), "b", None)
        vectors = norm.apply_unscaled(vectors) / norm.scale[:, None]
        constant = constant if norm_bias is None else constant + norm_bias.to(stream.dtype) @ W
    parts = torch.cat([vectors @ W, constant[None]])
    return turned(stream, layer, _normed(stream, side, layer, head, places, parts), places)


def turned(
    stream: Stream, layer: int, vectors: Float[Tensor, "*n batch d_head"], places: Positions
) -> Float[Tensor, "*n batch d_head"]:
    """Queries or keys turned by their positions, as far as the model does that."""
    if not stream.has(f"blocks.{layer}.attn.hook_cos"):
        return vectors
    cos, sin = (_at_places(stream, f"blocks.{layer}.attn.hook_{name}", places) for name in ("cos", "sin"))
    turning, still = vectors[..., : cos.shape[-1]], vectors[..., cos.shape[-1] :]
    if getattr(stream.model.cfg, "rotary_interleaved_cos_sin", False):  # Cohere turns neighbours, others the halves
        partner = torch.stack((-turning[..., 1::2], turning[..., ::2]), dim=-1).flatten(-2)
    else:
        first, second = turning.chunk(2, dim=-1)
        partner = torch.cat((-second, first), dim=-1)
    return torch.cat((turning * cos + partner * sin, still), dim=-1)


def require_formula(
    stream: Stream, product: Float[Tensor, "*n"], formed: Float[Tensor, "*n"], score: Float[Tensor, "*n"]
) -> None:
    """Refuse where the formula does not give the cached scores.

    Raises:
        ValueError: With the largest difference.
    """
    allowed = tolerance(stream.cache["blocks.0.hook_resid_pre"].dtype)
    off = float((formed - score).abs().max())
    if not off <= allowed * (1 + float(product.abs().max())):
        raise ValueError(
            f"this architecture makes its attention scores in another way: the towers' product is off by {off:.2g}; "
            "label_scores and label_attention still give what the model has. If a hook edits queries, keys or scores, "
            "make the cache without it"
        )


def _normed(
    stream: Stream, side: Side, layer: int, head: int, places: Positions, parts: Float[Tensor, "part batch d_head"]
) -> Float[Tensor, "part batch d_head"]:
    """Parts of queries or keys behind their norm, if the model has one, its scale frozen."""
    module = getattr(stream.block(layer).attn, f"{side}_norm", None)
    name = f"blocks.{layer}.attn.{side}_norm.hook_scale"
    if module is None or not stream.has(name):
        return parts
    own, scale, d_head = _own(stream, side, layer, head), stream.get(name), parts.shape[-1]
    norm = unit_norm(module, stream.dtype)
    if scale.ndim == 3:  # one scale for all heads in a row (OLMo-2)
        return parts * norm.weight.reshape(-1, d_head)[own] / scale[places.row, places.pos]
    return norm.apply_unscaled(parts) / scale[places.row, own, places.pos]


def _own(stream: Stream, side: Side, layer: int, head: int) -> int:
    """Which of the cached queries or keys is the head's: heads may share keys."""
    if side == "q":
        return head
    return head // (len(stream.block(layer).attn.W_O) // stream.get(f"blocks.{layer}.attn.hook_k").shape[2])


def _at_places(stream: Stream, name: str, places: Positions) -> Float[Tensor, "batch d_rotary"]:
    """A cosine or sine, cached once for all prompts or for each."""
    value = stream.get(name)
    return value.expand(stream.shape[0], -1, -1)[places.row, places.pos]
