"""The tokens neurons promote and suppress."""

from collections.abc import Sequence
from dataclasses import dataclass

from tl_neuron_attr._typechecked import typechecked_fields
from tl_neuron_attr.results.plural import plural
from tl_neuron_attr.results.table import PrintsAsTable, Table
from tl_neuron_attr.results.token_text import visible


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class TokenLists(PrintsAsTable):
    """The tokens neurons promote and suppress, strongest first, a negative coefficient taken into account.

    Attributes:
        labels: The neurons, prompts one after another.
        promoted: The tokens whose logit each neuron raises most.
        suppressed: The tokens whose logit each neuron lowers most.
        left_out: How many tokens that nobody can read stood before those listed; None where all are listed.
    """

    labels: tuple[str, ...]
    promoted: tuple[tuple[str, ...], ...]
    suppressed: tuple[tuple[str, ...], ...]
    left_out: int | None = None

    def table(self) -> Table:
        """Return one row per neuron."""
        rows = [
            (label, listed(up), listed(down))
            for label, up, down in zip(self.labels, self.promoted, self.suppressed, strict=True)
        ]
        left_out = plural(self.left_out or 0, "other token")
        note = "" if self.left_out is None else f"words and their beginnings; {left_out} left out"
        return Table(("neuron", "promotes", "suppresses"), rows, note)


def listed(tokens: Sequence[str], limit: int = 6) -> str:
    """Return tokens as one table cell.

    Examples:
        >>> listed([" Rome", " Paris"])
        '␣Rome | ␣Paris'
    """
    return " | ".join(visible(token) for token in tokens[:limit])
