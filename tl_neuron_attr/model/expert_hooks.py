"""What neurons of experts write, changed while the model runs: they have no hook of their own.

What they wrote is computed again, from what their layer read and how it was routed, and added to its output.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr.model.experts import Experts
from tl_neuron_attr.results.plural import plural

Hook = tuple[str, Callable[..., Tensor | None]]
"""A hook point's name and the function to run there, as ``run_with_hooks`` takes them."""


def routed_hooks(experts: Experts, change: Callable[[Tensor, Tensor, Tensor], Tensor]) -> list[Hook]:
    """Return hooks that keep what the experts read and how it was routed, and change what they wrote.

    Args:
        experts: The experts of a layer.
        change: Returns what the layer writes in place of its output, of that output, what it read, and the router's
            weight of every expert at every place, the latter two with one row per place.
    """
    seen: dict[str, Tensor] = {}

    def keeping(name: str) -> Callable[..., None]:
        def keep_activation(activation: Tensor, hook: Any) -> None:
            seen[name] = activation

        return keep_activation

    def changed(out: Tensor, hook: Any) -> Tensor:
        read, *returned = (seen[name].to(experts.directions().device) for name in experts.hooks)
        return change(out, read.flatten(0, 1), experts.routing(read, returned, out.dtype).flatten(0, 1))

    return [*((name, keeping(name)) for name in experts.hooks), ("mlp.hook_out", changed)]


def expert_hooks(experts: Experts, factor: Float[Tensor, "row width"]) -> list[Hook]:
    """Return hooks that multiply what neurons of experts write; one row of factors for all prompts, or one each."""

    def change(out: Tensor, read: Tensor, routing: Tensor) -> Tensor:
        require_same_batch(factor, out)
        batch, pos, _ = out.shape
        row = torch.arange(batch, device=factor.device).clamp_max(len(factor) - 1).repeat_interleave(pos)
        added = experts.written(read, routing, factor - 1, row)
        return out + added.unflatten(0, (batch, pos)).to(out.device)

    return routed_hooks(experts, change)


def require_same_batch(factor: Float[Tensor, "row *width"], activation: Tensor) -> None:
    """Refuse factors of several prompts in a run of another number of them.

    Raises:
        ValueError: Naming both numbers.
    """
    if len(factor) not in (1, len(activation)):
        raise ValueError(
            f"the neurons are of {plural(len(factor), 'prompt')}, but the model is run on {len(activation)}: run it on "
            "the same batch, or take one prompt's neurons"
        )
