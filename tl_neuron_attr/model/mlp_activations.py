"""The activations of every MLP neuron on a text, and nothing else of the run."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


@torch.no_grad()
def mlp_activations(model: Any, tokens: Int[Tensor, "batch pos"]) -> list[Float[Tensor, "batch pos _"]]:
    """Return the MLP neurons' activations of each layer (paper 1, Eq. 6): all that a run keeps.

    Raises:
        ValueError: If a layer has no MLP neurons.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> layers = mlp_activations(model, model.to_tokens("3 + 5 ="))
        >>> len(layers) == model.cfg.n_layers
        True
    """
    names = [f"blocks.{layer}.mlp.hook_post" for layer in range(model.cfg.n_layers)]
    _, cache = model.run_with_cache(tokens, names_filter=names, return_type=None)
    if missing := [name for name in names if name not in cache]:
        raise ValueError(f"the model has no MLP neurons at {', '.join(missing[:3])}")
    return [cache[name] for name in names]
