"""The gradient of a prediction in the coefficient of every neuron of a mixture of experts.

What experts write is linear in their coefficients, so the gradient in one is that in what its layer wrote, along the
neuron's direction:

    d log p(w) / d coefficient = direction . d log p(w) / d output
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr.model.expert_hooks import Hook, routed_hooks
from tl_neuron_attr.model.experts import Experts


@dataclass
class ExpertRun:
    """The experts of one layer in a run that a gradient goes back through.

    Attributes:
        experts: The experts.
        factor: What all their coefficients are multiplied with.
        kept: Where the layer's output is kept, by its number.
        layer: That number.
    """

    experts: Experts
    factor: float
    kept: dict[int, Tensor]
    layer: int
    _coefficients: Tensor = field(init=False, repr=False)

    def hooks(self) -> list[Hook]:
        """Return hooks that keep coefficients and output."""
        return [(f"blocks.{self.layer}.{name}", hook) for name, hook in routed_hooks(self.experts, self._keep)]

    def neurons(
        self, gradient: Float[Tensor, "batch pos d_model"]
    ) -> tuple[Float[Tensor, "batch pos neuron"], Float[Tensor, "batch pos neuron"]]:
        """Return the neurons' coefficients, and the gradient in them by that in the output."""
        directions = self.experts.directions()
        every = torch.ones(len(directions), dtype=torch.bool)
        found = directions.products(gradient.to(directions.device).flatten(0, 1), every)
        shape = gradient.shape[:2]
        return self._coefficients.unflatten(0, shape) * self.factor, found.unflatten(0, shape)

    def _keep(self, out: Tensor, read: Tensor, routing: Tensor) -> Tensor:
        with torch.no_grad():
            self._coefficients = self.experts.coefficients(read, routing)
        added = torch.zeros_like(out)
        if self.factor != 1:
            every = torch.full((1, self.experts.neurons), self.factor - 1, dtype=read.dtype, device=read.device)
            row = torch.zeros(len(read), dtype=torch.long, device=read.device)
            added = self.experts.written(read, routing, every, row).reshape(out.shape).to(out)
        self.kept[self.layer] = out + added  # a tensor of its own: hooks hand out views, whose gradient is lost
        return self.kept[self.layer]
