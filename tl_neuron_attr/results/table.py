"""One table, printed the same way in a terminal and in a notebook."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from numbers import Integral, Real
from typing import Any, Literal

from tabulate import tabulate

from tl_neuron_attr.results.equality import EqualByData

Side = Literal["left", "right"]
"""Where the cells of a column stand."""


@dataclass(frozen=True)
class Table:
    """Rows under headings; floats are shown with four decimals, text as it is.

    Examples:
        >>> print(Table(("rank", "score"), [(1, 0.25), (2, 0.125)]))
          rank    score
        ------  -------
             1   0.2500
             2   0.1250
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""

    def __str__(self) -> str:
        text = self._render("simple")
        return f"{self.caption}\n{text}" if self.caption else text

    def html(self) -> str:
        """Return the table as HTML, every cell escaped."""
        return self._render("html").replace("<table>", f"<table><caption>{escape(self.caption)}</caption>", 1)

    def _repr_html_(self) -> str:
        return self.html()

    def cells(self) -> tuple[list[list[str]], list[Side]]:
        """Return what every cell shows, and the side that each column's cells stand on: numbers on the right."""
        signed = any(_is_float(cell) and cell < 0 for row in self.rows for cell in row)
        spec = "+.4f" if signed else ".4f"
        shown = [[_shown(cell, spec) for cell in row] for row in self.rows]
        columns = zip(*shown, strict=True) if shown else [()] * len(self.headings)
        return shown, ["right" if all(_is_number(text) for text in column if text) else "left" for column in columns]

    def _render(self, style: str) -> str:
        cells, sides = self.cells()
        return tabulate(cells, self.headings, tablefmt=style, disable_numparse=True, colalign=sides if cells else None)


def _shown(cell: object, spec: str) -> str:
    if cell is None:
        return ""
    return format(cell, spec) if _is_float(cell) else str(cell)


def _is_float(cell: object) -> bool:
    return isinstance(cell, Real) and not isinstance(cell, Integral)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class PrintsAsTable(EqualByData):
    """Mixin of every result: it prints as its ``table()``, and equals another whose data are the same.

    Results hold tensors and frames, which Python's own ``==`` of dataclasses can't compare: they are decorated with
    ``dataclass(frozen=True, repr=False, eq=False)``.
    """

    def table(self) -> Table:
        """Return the object as a table."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table().html()
