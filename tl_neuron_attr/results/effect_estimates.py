"""The estimated effect of every neuron and head."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.numerics.flat_index import best_of
from tl_neuron_attr.numerics.sublayer import SITES, Site
from tl_neuron_attr.results.neurons import Neurons
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
        experts: By layer, the number of each expert's first neuron in a mixture, nothing in a dense layer; None where
            all layers are dense.
    """

    mlp: Float[Tensor, "*b layer pos d_mlp"]
    attn: Float[Tensor, "*b layer pos head d_head"]
    mlp_activation: Float[Tensor, "*b layer pos d_mlp"]
    attn_activation: Float[Tensor, "*b layer pos head d_head"]
    log_prob: Float[Tensor, "*b"]
    method: str
    experts: tuple[tuple[int, ...], ...] | None = None

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

    @typechecked
    def top(self, k: int, *, sites: Sequence[Site] = SITES) -> Neurons:
        """Return the ``k`` neurons of the largest estimated effect, of each prompt of a batch; it is their ``score``.

        They are taken out at every position, attention neurons for all sources (``.source`` is -1); ``.coefficient`` is
        the activation where it counts most. :func:`~tl_neuron_attr.evaluate.verify` measures what they really cost.

        Args:
            k: How many.
            sites: MLP neurons, attention neurons or both.

        Raises:
            ValueError: If there is no site, or ``k`` is not between 1 and the number of neurons with an estimate other
                than zero.
        """
        if not sites:
            raise ValueError("sites is empty: give 'mlp', 'attn' or both")
        chosen: list[Site] = [site for site in SITES if site in sites]
        grids = [self._by_neuron(site) for site in chosen]
        score, coefficient = (torch.cat([grid[i].flatten(1) for grid in grids], dim=1) for i in (0, 1))
        least = int((score != 0).sum(1).min())
        if not 1 <= k <= least:
            raise ValueError(f"k must be between 1 and the {least} neurons with an estimate other than zero, got {k}")
        flat = torch.stack([best_of(row, k) for row in score.where(score != 0, -torch.inf)])
        site, layer, head, index = (
            torch.cat([_numbers(of, grid[0].shape[1:], name) for of, grid in zip(chosen, grids, strict=True)]).to(
                flat.device
            )[flat]
            for name in ("site", "layer", "head", "index")
        )
        best, moved = score.gather(1, flat), coefficient.gather(1, flat)
        expert, inner = self._by_expert(site, layer, index)
        source = torch.full_like(flat, -1)
        found = Neurons(site, layer, head, source, index, moved, best, expert=expert, expert_index=inner)
        return found if self.mlp.ndim == 4 else found[0]

    def _by_neuron(self, site: Site) -> tuple[Tensor, Tensor]:
        """Return, by prompt, each neuron's estimate and its activation at the position that counts most."""
        if site == "mlp":
            by_place, activation = self.mlp[..., None, :], self.mlp_activation[..., None, :]
        else:
            by_place, activation = self.attn, self.attn_activation
        if by_place.ndim == 4:
            by_place, activation = by_place[None], activation[None]
        most = by_place.abs().argmax(2, keepdim=True)
        return by_place.sum(2), activation.gather(2, most)[:, :, 0]

    def _by_expert(
        self, site: Int[Tensor, "batch k"], layer: Int[Tensor, "batch k"], index: Int[Tensor, "batch k"]
    ) -> tuple[Int[Tensor, "batch k"] | None, Int[Tensor, "batch k"] | None]:
        """Return expert and number within it of each neuron, -1 for any other; None where all layers are dense."""
        if self.experts is None:
            return None, None
        expert, inner = torch.full_like(index, -1), torch.full_like(index, -1)
        for number, starts in enumerate(self.experts):
            if starts:
                mine = (site == SITES.index("mlp")) & (layer == number)
                first = torch.tensor(starts, device=index.device)
                expert[mine] = torch.searchsorted(first, index[mine], right=True) - 1
                inner[mine] = index[mine] - first[expert[mine]]
        return expert, inner

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


def _numbers(site: Site, shape: torch.Size, name: str) -> Int[Tensor, "neuron"]:
    """Return a column that names every neuron of a site, of which there are ``shape``: layers, heads, numbers."""
    if name == "site" or (name == "head" and site == "mlp"):
        return torch.full((shape.numel(),), SITES.index(site) if name == "site" else -1)
    at = ("layer", "head", "index").index(name)
    return torch.unravel_index(torch.arange(shape.numel()), shape)[at]
