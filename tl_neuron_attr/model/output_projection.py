"""What heads write with: a block's output projection, split into its heads."""

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
