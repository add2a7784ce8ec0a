"""Every neuron of a site in two runs: what :func:`~tl_neuron_attr.cna.compare_neurons` returns."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.numerics.flat_index import best_of
from tl_neuron_attr.numerics.sublayer import SITES, Site
from tl_neuron_attr.results.neuron_text import NeuronText
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.results.plural import plural
from tl_neuron_attr.results.table import PrintsAsTable, Table
from tl_neuron_attr.results.token_lists import listed

if TYPE_CHECKING:
    import pandas as pd

SHOWN_NEURONS = 20
"""Rows of a printed table: one screen."""

_GRIDS = ("increase", "other_increase", "coefficient", "other_coefficient")


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class NeuronComparison(PrintsAsTable):
    """Every neuron of a site in two runs.

    MLP neurons have the shape ``*b layer d_mlp``, attention neurons ``*b layer head source d_head``; ``*b`` is absent
    where the caches had no batch dimension.

    Attributes:
        site: ``"mlp"`` or ``"attn"``.
        increase: Log-probability increase in the first run, in nats.
        other_increase: The same in the other run.
        coefficient: Each neuron's activation in the first run, times the attention weight of its source.
        other_coefficient: The same in the other run.
        batched: Whether there is a batch dimension.
        text: The tokens of the neurons that changed most, either way.
    """

    site: Site
    increase: Float[Tensor, "*b_layer_neuron"]
    other_increase: Float[Tensor, "*b_layer_neuron"]
    coefficient: Float[Tensor, "*b_layer_neuron"]
    other_coefficient: Float[Tensor, "*b_layer_neuron"]
    batched: bool
    text: NeuronText | None = None

    @property
    def change(self) -> Float[Tensor, "*b_layer_neuron"]:
        """Return the CNA score of paper 3 in nats: each neuron's increase in the first run minus that in the other."""
        return self.increase - self.other_increase

    @typechecked
    def top(self, k: int, *, largest: bool = True) -> Neurons:
        """Return the ``k`` neurons of the largest change, of each case of a batch; the change is their ``score``.

        Coefficients are those of the first run.

        Args:
            k: How many.
            largest: False for the neurons that raise the token more in the other run.

        Raises:
            ValueError: If ``k`` is not between 1 and the number of neurons.
        """
        change = self._flat(self.change)
        if not 1 <= k <= change.shape[1]:
            raise ValueError(f"k must be between 1 and the {change.shape[1]} {self.site} neurons, got {k}")
        flat = torch.stack([best_of(row if largest else -row, k) for row in change])
        return self._named(flat, change.gather(1, flat)).squeeze(batched=self.batched)

    def summed(self) -> "NeuronComparison":
        """Return all cases of a batch as one: increases summed, coefficients averaged."""
        grids: dict[str, Any] = {name: self._case_mean(name) for name in _GRIDS}
        cases = self.increase.shape[0] if self.batched else 1
        for name in ("increase", "other_increase"):
            grids[name] = grids[name] * cases
        return replace(self, **grids, batched=False)

    @typechecked
    def united(self, k: int) -> Neurons:
        """Return the neurons among the ``k`` of the largest change in any case, by their summed change.

        Raises:
            ValueError: If ``k`` is not between 1 and the number of neurons.
        """
        per_case = self.top(k)
        rows = per_case if self.batched else per_case.unsqueeze()
        whole = self.summed()
        flat = self._numbers(rows).unique()
        change = whole._flat(whole.change)[0, flat]
        order = change.sort(descending=True, stable=True).indices
        return whole._named(flat[order][None], change[order][None])[0]

    @typechecked
    def other_coefficients(self, neurons: Neurons) -> Float[Tensor, "*b k"]:
        """Return coefficients in the other run of ``neurons`` from :meth:`top` or :meth:`united`."""
        grid = self._flat(self.other_coefficient)
        found = grid.gather(1, self._numbers(neurons if neurons.batched else neurons.unsqueeze()))
        return found if neurons.batched else found[0]

    @classmethod
    def joined(cls, batches: "Sequence[NeuronComparison]") -> "NeuronComparison":
        """Return batches of cases as one.

        Raises:
            ValueError: If there is none, or they are not of one shape.
        """
        if not batches:
            raise ValueError("batches is empty: give at least one comparison")
        if len({(batch.site, batch.batched, batch.increase.shape[1:]) for batch in batches}) > 1:
            raise ValueError("batches are not of one site and shape: compare the same site of the same models")
        grids: dict[str, Any] = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in _GRIDS}
        text = [batch.text for batch in batches if batch.text is not None]
        return replace(batches[0], **grids, text=NeuronText.joined(text) if text else None)

    def table(self) -> Table:
        """Return the neurons of the largest change, in both runs; of a batch, all cases summed."""
        frame = self.to_frame(min(SHOWN_NEURONS, self._flat(self.increase).shape[1]))
        columns = ("rank", "neuron", "change", "increase", "other_increase", "coefficient", "other_coefficient")
        promoted = ("promotes",) if "promoted" in frame else ()
        rows = [
            (*(row[name] for name in columns), *((listed(row["promoted"]),) if promoted else ()))
            for row in frame.to_dict("records")
        ]
        cases = f", {plural(len(self.increase), 'case')} summed" if self.batched else ""
        return Table([*(name.replace("_", " ") for name in columns), *promoted], rows, f"in nats{cases}")

    @typechecked
    def to_frame(self, k: int = 100) -> "pd.DataFrame":
        """Return the ``k`` neurons of the largest change, one per row, with both runs' increase and coefficient."""
        whole = self.summed() if self.batched else self
        best = whole.top(min(k, whole._flat(whole.increase).shape[1]))
        flat = whole._numbers(best.unsqueeze())[0]
        frame = best.to_frame().rename(columns={"score": "change"})
        for name in ("increase", "other_increase", "other_coefficient"):
            frame[name] = whole._flat(getattr(whole, name))[0, flat].tolist()
        return frame

    def _case_mean(self, name: str) -> Tensor:
        grid: Tensor = getattr(self, name)
        return grid.mean(0) if self.batched else grid

    def _flat(self, grid: Tensor) -> Float[Tensor, "case neuron"]:
        return grid.flatten(1) if self.batched else grid.flatten()[None]

    def _shape(self) -> torch.Size:
        """Return the number of layers, and what neurons are numbered by within one."""
        return self.increase.shape[1:] if self.batched else self.increase.shape

    def _numbers(self, neurons: Neurons) -> Int[Tensor, "case k"]:
        """Return the flat numbers of neurons of a batch among all."""
        shape = self._shape()
        if self.site == "mlp":
            return neurons.layer * shape[1] + neurons.index
        within = (neurons.head * shape[2] + neurons.source) * shape[3] + neurons.index
        return neurons.layer * shape[1:].numel() + within

    def _named(self, flat: Int[Tensor, "case k"], score: Float[Tensor, "case k"]) -> Neurons:
        at = torch.unravel_index(flat, self._shape())
        none = torch.full_like(flat, -1)
        return Neurons(
            site=torch.full_like(flat, SITES.index(self.site)),
            layer=at[0],
            head=at[1] if self.site == "attn" else none,
            source=at[2] if self.site == "attn" else none,
            index=at[-1],
            coefficient=self._flat(self.coefficient).gather(1, flat),
            score=score,
            text=self.text,
        )
