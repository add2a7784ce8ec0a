"""One table, printed the same way in a terminal and in a notebook."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from tabulate import tabulate


@dataclass(frozen=True)
class Table:
    """Rows under headings; floats are shown with four decimals.

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
        """The table as HTML, every cell escaped."""
        return self._render("html").replace("<table>", f"<table><caption>{escape(self.caption)}</caption>", 1)

    def _repr_html_(self) -> str:
        return self.html()

    def _render(self, style: str) -> str:
        return tabulate(self.rows, self.headings, tablefmt=style, floatfmt="+.4f" if self._signed else ".4f")

    @property
    def _signed(self) -> bool:
        return any(isinstance(cell, float) and cell < 0 for row in self.rows for cell in row)


class PrintsAsTable:
    """Mixin: whatever has a ``table()`` prints as it, in a terminal and in a notebook."""

    def table(self) -> Table:
        """The object as a table."""
        raise NotImplementedError

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table().html()
