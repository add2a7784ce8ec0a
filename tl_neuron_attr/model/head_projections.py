"""What heads write and read with: a block's projections, split into its heads."""

from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge.generalized_components.attention import PerLayerGeometryError


def output_projection(attn: Any) -> Float[Tensor, "head d_head d_model"] | None:
    """Return the live output projection of each head of a block; None where it has no softmax attention.

    TransformerLens splits it by the config's size of a head, and refuses layers whose heads are of another: values of
    latent attention before the first run, and layers of Gemma 4. The number of heads is that of the config in both.
    """
    try:
        return getattr(attn, "W_O", None)
    except PerLayerGeometryError:
        return attn.o.weight.T.unflatten(0, (int(attn.config.n_heads), -1))


def input_projection(attn: Any, side: str, d_head: int) -> Float[Tensor, "kv d_model d_head"]:
    """Return what heads project the stream with to their ``"q"``, ``"k"`` or ``"v"``; the latter two may be shared.

    Where values pass a norm (Gemma 4), layers may differ in the size of a head, which TransformerLens does not see, and
    have no values of their own: their keys are their values, before either passes its norm.
    """
    if not hasattr(attn, "v_norm"):
        return getattr(attn, f"W_{side.upper()}")
    own = getattr(getattr(attn, side, None), "weight", None)
    weight: Tensor = attn.k.weight if own is None else own
    return weight.unflatten(0, (-1, d_head)).transpose(1, 2)


def values_layer(model: Any, layer: int) -> int:
    """Return the layer whose values a layer attends to: its own, or an earlier one's that it shares (Gemma 4)."""
    blocks = getattr(model, "blocks", ())
    if not len(blocks) or not _shares(getattr(blocks[layer], "attn", None)):
        return layer
    every = [getattr(block, "attn", None) for block in blocks]
    kind = [getattr(attn, "layer_type", None) for attn in every]
    return max(at for at in range(layer) if not _shares(every[at]) and kind[at] == kind[layer])


def _shares(attn: Any) -> bool:
    """Return whether attention reads the values of an earlier layer."""
    return bool(getattr(attn, "is_kv_shared_layer", False))
