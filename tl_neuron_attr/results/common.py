"""Neurons that lead every prompt's lists, and leaving them out of a list."""

from dataclasses import dataclass

import pandas as pd

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.numerics.sublayer import Site
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.results.table import PrintsAsTable, Table


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class CommonNeurons(PrintsAsTable):
    """Neurons that are common to most prompts of a sample, whatever they ask for.

    Attributes:
        frame: One row per neuron: ``neuron`` (its label), ``ratio`` (median over prompts of its largest activation
            over the layer's median), ``position`` (where it is largest in most prompts; -1 for an attention neuron),
            and the shares of prompts in which its activation is massive (``massive``), and in which it is among the
            best value and query neurons (``value``, ``query``).
        prompts: How many prompts were looked at.
        k: How many of each prompt's best value and query neurons.
        massive_ratio: From which ratio on an activation counts as massive.
        sizes: Layers, width and vocabulary of the model.
    """

    frame: pd.DataFrame
    prompts: int
    k: int
    massive_ratio: float
    sizes: tuple[int, int, int]

    @property
    def labels(self) -> list[str]:
        """The neurons' labels, as components are named: ``L11N1229``."""
        return self.frame["neuron"].tolist()

    def __contains__(self, label: object) -> bool:
        """Whether a neuron is common; of an attention neuron the source does not matter."""
        return isinstance(label, str) and label.split("@")[0] in self.labels

    def __len__(self) -> int:
        return len(self.frame)

    def count(self, sites: tuple[Site, ...], n_positions: int, sizes: tuple[int, int, int]) -> int:
        """Return how many entries of a list over ``sites`` they can take: an attention neuron one per source.

        Raises:
            ValueError: If they are of a model of other sizes.
        """
        if sizes != self.sizes:
            shown = "{} layers of width {} and a vocabulary of {}"
            raise ValueError(
                f"exclude_common is of a model with {shown.format(*self.sizes)},\nthis one has "
                f"{shown.format(*sizes)}: find this model's with tna.common_neurons"
            )
        mlp = sum("H" not in label for label in self.labels)
        return mlp * ("mlp" in sites) + (len(self) - mlp) * n_positions * ("attn" in sites)

    @typechecked
    def without(self, neurons: Neurons, k: int) -> Neurons:
        """Return the first ``k`` neurons that are not common, of each prompt; fewer where fewer are left.

        Raises:
            ValueError: If ``k`` is below 1.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        rows = [neurons[i] for i in range(len(neurons.score))] if neurons.batched else [neurons]
        known = set(self.labels)
        left = [[i for i, name in enumerate(row.flat_labels) if name.split("@")[0] not in known] for row in rows]
        chosen = [row.pick(places[:k]).unsqueeze() for row, places in zip(rows, left, strict=True)]
        return Neurons.joined(chosen).squeeze(batched=neurons.batched)

    @typechecked
    def marked(self, neurons: Neurons) -> Table:
        """Return the neurons' table with a column that marks those that are common.

        Raises:
            TypeError: If the neurons are of several prompts.
        """
        if neurons.batched and len(neurons.score) > 1:
            raise TypeError(f"neurons are of {len(neurons.score)} prompts; take one prompt's: neurons[i]")
        table, at = neurons.table(), neurons.table().headings.index("neuron") + 1
        marks = ["common" if name in self else "" for name in neurons.flat_labels]
        rows = [(*row[:at], mark, *row[at:]) for row, mark in zip(table.rows, marks, strict=True)]
        return Table((*table.headings[:at], "", *table.headings[at:]), rows, table.caption)

    def table(self) -> Table:
        """Return one row per neuron, those of most query lists first."""
        rows = [
            (
                row["neuron"],
                *((f"{row['ratio']:,.0f}", row["position"]) if row["position"] >= 0 else ("", "")),
                *(f"{100 * row[name]:.0f} %" for name in ("massive", "value", "query")),
            )
            for row in self.frame.to_dict("records")
        ]
        headings = ("neuron", "times the median", "position", "massive in", "value list of", "query list of")
        return Table(headings, rows, f"common to most of {self.prompts} prompts, lists of {self.k}")
