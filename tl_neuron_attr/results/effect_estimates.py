"""The estimated effect of every neuron and head."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked_fields
from tl_neuron_attr.results.table import PrintsAsTable, Table

if TYPE_CHECKING:
    import pandas as pd


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class EffectEstimates(PrintsAsTable):
    """How much log-probability each neuron is estimated to be worth, in nats: what taking it out alone would cost.

    Summed over positions, the estimate of a neuron is that of taking it out at every position.

    Attributes:
        mlp: The MLP neurons.
        attn: The attention neurons, all sources together.
        mlp_activation: What the MLP neurons wrote with.
        attn_activation: What the attention neurons wrote with.
        log_prob: The untouched log-probability.
        method: How they were estimated.
    """

    mlp: Float[Tensor, "*b layer pos d_mlp"]
    attn: Float[Tensor, "*b layer pos head d_head"]
    mlp_activation: Float[Tensor, "*b layer pos d_mlp"]
    attn_activation: Float[Tensor, "*b layer pos head d_head"]
    log_prob: Float[Tensor, "*b"]
    method: str

    @property
    def mlp_neurons(self) -> Float[Tensor, "*b layer d_mlp"]:
        """Each MLP neuron taken out at all positions."""
        return self.mlp.sum(-2)

    @property
    def attn_neurons(self) -> Float[Tensor, "*b layer head d_head"]:
        """Each attention neuron taken out at all positions."""
        return self.attn.sum(-3)

    @property
    def heads(self) -> Float[Tensor, "*b layer head"]:
        """Each head taken out at all positions."""
        return self.attn_neurons.sum(-1)

    def table(self) -> Table:
        """Return the sums of each layer; of a batch, the mean."""
        attn, mlp = (
            values.reshape(-1, *values.shape[-1:]).mean(0).tolist()
            for values in (self.attn_neurons.sum((-2, -1)), self.mlp_neurons.sum(-1))
        )
        rows = [(layer, a, m) for layer, (a, m) in enumerate(zip(attn, mlp, strict=True))]
        return Table(("layer", "attn", "mlp"), rows, f"estimated effects in nats, by {self.method}")

    def to_frame(self) -> "pd.DataFrame":
        """Return one row per prompt, site, layer, head (NA for MLP) and neuron: its estimate, in nats."""
        import pandas as pd

        frames: list[pd.DataFrame] = []
        for site, values in (("mlp", self.mlp_neurons[..., None, :]), ("attn", self.attn_neurons)):
            grid = values if values.ndim == 4 else values[None]
            at = torch.cartesian_prod(*(torch.arange(n) for n in grid.shape)).T.numpy()
            columns = dict(zip(("prompt", "layer", "head", "index"), at, strict=True))
            frame = pd.DataFrame({"site": site, **columns, "effect": grid.flatten().cpu().numpy()})
            head = frame["head"].astype("Int64")
            frames.append(frame.assign(head=head.mask(head >= 0) if site == "mlp" else head))
        return pd.concat(frames, ignore_index=True)
