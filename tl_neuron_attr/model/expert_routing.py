"""Which experts a mixture's router chose, where TransformerLens has no hook that says it.

The mixture's own forward pass is run again on what it read, with its experts replaced by a module that notes what it is
given and writes nothing: routers differ (groups of experts, biases for the choice, scaling), but not in what they give
to experts.
"""

from copy import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class _Noted(nn.Module):
    """Stands in place of experts: notes the experts chosen and their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.chosen: tuple[Tensor, Tensor] | None = None

    def forward(
        self, hidden_states: Tensor, top_k_index: Tensor | None = None, top_k_weights: Tensor | None = None
    ) -> Tensor:
        if top_k_index is not None and top_k_weights is not None:
            self.chosen = top_k_index, top_k_weights
        return torch.zeros_like(hidden_states)


def routed_again(
    mixture: Any, experts: str, silent: str | None, read: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "token expert"]:
    """Return the router's weight of every expert, zero where a token was not routed to it.

    Args:
        mixture: The module of transformers that holds router and experts; it is not changed.
        experts: The name of its experts.
        silent: The name of its shared expert, which need not run.
        read: What the mixture read in the run.

    Raises:
        ValueError: If its experts are not given indices and weights, and its router does not return weights.
    """
    count, noted, copied = len(getattr(mixture, experts).down_proj), _Noted(), copy(mixture)
    replaced = {experts: noted} if silent is None else {experts: noted, silent: _Noted()}
    vars(copied)["_modules"] = {**vars(mixture)["_modules"], **replaced}
    type(mixture).forward(copied, read)  # past accelerate's hook, which is the mixture's own
    if noted.chosen is not None:
        indices, weights = (each.reshape(-1, each.shape[-1]) for each in noted.chosen)
        return weights.new_zeros(len(weights), count).scatter_(1, indices.long(), weights)
    weights = mixture.router(read.flatten(0, 1))[0]  # Llama 4: every expert is given every token, times its weight
    if weights.shape != (read[..., 0].numel(), count):
        raise ValueError(f"{type(mixture).__name__} does not say which experts it chose: this mixture is not supported")
    return weights
