"""The tokens that switch neurons on and off."""

from dataclasses import dataclass

from tl_neuron_attr._typechecked import typechecked_fields
from tl_neuron_attr.results.table import PrintsAsTable, Table
from tl_neuron_attr.results.token_lists import listed


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class KeyTokens(PrintsAsTable):
    """The tokens whose embeddings neurons respond to most and least, strongest first.

    Attributes:
        labels: The neurons, prompts one after another.
        on: The tokens that switch each neuron on most.
        off: The tokens that switch it off most.
    """

    labels: tuple[str, ...]
    on: tuple[tuple[str, ...], ...]
    off: tuple[tuple[str, ...], ...]

    def table(self) -> Table:
        """Return one row per neuron."""
        rows = [(label, listed(on), listed(off)) for label, on, off in zip(self.labels, self.on, self.off, strict=True)]
        return Table(("neuron", "switched on by", "switched off by"), rows, "")
