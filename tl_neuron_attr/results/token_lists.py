"""The tokens neurons promote and suppress."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tl_neuron_attr.results.table import PrintsAsTable, Table
from tl_neuron_attr.results.token_text import visible


@dataclass(frozen=True, repr=False)
class TokenLists(PrintsAsTable):
    """The tokens neurons promote and suppress, strongest first, a negative coefficient taken into account.

    Attributes:
        labels: The neurons, prompts one after another.
        promoted: The tokens whose logit each neuron raises most.
        suppressed: The tokens whose logit each neuron lowers most.
    """

    labels: tuple[str, ...]
    promoted: tuple[tuple[str, ...], ...]
    suppressed: tuple[tuple[str, ...], ...]

    def table(self) -> Table:
        """Neurons in rows."""
        rows = [
            (label, listed(up), listed(down))
            for label, up, down in zip(self.labels, self.promoted, self.suppressed, strict=True)
        ]
        return Table(("neuron", "promotes", "suppresses"), rows)


@dataclass(frozen=True)
class Words:
    """Text that goes with neurons: read when a table is printed, not when neurons are searched.

    Attributes:
        sources: The tokens of each prompt; empty where they could not be found.
        promoted: The tokens each neuron promotes, by :attr:`Neurons.keys`.
    """

    sources: tuple[tuple[str, ...], ...]
    promoted: Mapping[str, tuple[str, ...]]

    def source(self, prompt: int, source: int) -> str:
        """The token at a source position, or the empty string."""
        tokens = self.sources[prompt] if prompt < len(self.sources) else ()
        return tokens[source] if 0 <= source < len(tokens) else ""


def listed(tokens: Sequence[str], limit: int = 6) -> str:
    """Tokens in one table cell."""
    return " | ".join(visible(token) for token in tokens[:limit])
