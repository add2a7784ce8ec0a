"""What switches neurons on: their subkeys as directions of the stream, and the tokens' embeddings to try them on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr.model.head_projections import values_layer
from tl_neuron_attr.model.weights import BlockWeights, block_weights
from tl_neuron_attr.model.within import within
from tl_neuron_attr.numerics.sublayer import SITES, Site, score_dtype
from tl_neuron_attr.results.neurons import Neurons


@dataclass(frozen=True)
class StreamKeys:
    """Subkeys of neurons, behind the norm in front of them, whose scale is left out.

    Attributes:
        vectors: One key per neuron.
        centred: Whether the norms subtract the mean; None in a model without norms in front of its neurons.
    """

    vectors: Float[Tensor, "n d_model"]
    centred: bool | None


def stream_keys(model: Any, neurons: Neurons) -> StreamKeys:
    """Return the subkey of each neuron.

    Of a gated MLP neuron it is the gate's: the gate opens or shuts, the other projection gives sign and size. An
    attention neuron is linear, so its key is negated where its coefficient is negative. Keys of latent attention leave
    out the scale of its inner norm too. The weights of a layer are looked up once.

    Raises:
        IndexError: If a neuron is not of this model.
    """
    at = zip(*(neurons.flat(name) for name in ("site", "layer", "head", "index", "coefficient")), strict=True)
    weights_of = cache(partial(block_weights, model))
    keys = [_key(model, weights_of, SITES[int(s)], int(la), int(h), int(i), float(c)) for s, la, h, i, c in at]
    return StreamKeys(torch.stack([key for key, _ in keys]), keys[0][1])


def embeddings(model: Any) -> Float[Tensor, "d_vocab d_model"]:
    """Return the embedding of every token, in the model's own dtype, a factor common to all tokens left out.

    Raises:
        ValueError: If the stream does not begin with them: they are narrower (OPT-350M), or normalised first (BLOOM).
    """
    narrower = model.W_E.shape[1] != model.W_U.shape[0]
    if narrower or hasattr(model, "embed_ln"):
        raise ValueError(
            "the tokens that switch a neuron on are found by their embeddings, and this model "
            + ("projects them into a wider stream" if narrower else "normalises them before its first layer")
            + "; top_tokens, what neurons promote, works"
        )
    return model.W_E


def _key(
    model: Any,
    weights_of: Callable[[int], BlockWeights],
    site: Site,
    layer: int,
    head: int,
    index: int,
    coefficient: float,
) -> tuple[Float[Tensor, "d_model"], bool | None]:
    """Return one neuron's key, and whether the norm in front of it is centred."""
    weights = weights_of(layer)
    if site == "attn":
        weights.require_head(layer, head)
        within(f"neuron index in layer {layer}", index, weights.d_head)
        which, index = "v", head * weights.d_head + index
        weights = weights_of(values_layer(model, layer))
    else:
        within(f"neuron index in layer {layer}", index, weights.d_mlp)
        which = "gate" if weights.gated else "in"
    own = weights.subkeys_of(which, torch.tensor([index], device=model.W_U.device))[0][0]
    key = own.to(score_dtype(own.dtype)) * (-1 if site == "attn" and coefficient < 0 else 1)
    name = weights.pre_norm[site]
    if not name:
        return key, None
    norm = weights.norm(name, key.dtype)
    return norm.adjoint(key), norm.centred
