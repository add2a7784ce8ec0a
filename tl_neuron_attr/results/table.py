"""One table, printed the same way in a terminal and in a notebook."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite
from numbers import Integral, Real
from typing import Any, Literal

from tabulate import tabulate

from tl_neuron_attr.results.equality import EqualByData
from tl_neuron_attr.results.token_text import printable

Side = Literal["left", "right"]
"""Where the cells of a column stand."""
_BARRED = ("score", "drop", "effect", "weight", "change", "attn", "mlp")
"""Columns of nats whose cells have a bar behind them in a notebook."""
_RAISES, _LOWERS = "rgba(70,130,200,.35)", "rgba(200,80,70,.35)"
"""Pale enough to read text on, in light and dark notebooks."""


@dataclass(frozen=True)
class Table:
    """Rows under headings; floats are shown with four decimals, text on one line, control characters by their escape.

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
        cells, sides = self.cells()
        headings = [printable(heading) for heading in self.headings]
        text = tabulate(cells, headings, tablefmt="simple", disable_numparse=True, colalign=sides if cells else None)
        caption = "\n".join(map(printable, self.caption.split("\n")))
        return f"{caption}\n{text}" if caption else text

    def html(self) -> str:
        """Return the table as HTML, every cell escaped."""
        shown, sides = self.cells()
        caption = f'<caption style="text-align:left">{escape(self.caption)}</caption>' if self.caption else ""
        titles = zip(self.headings, sides, strict=True)
        head = "".join(f'<th style="text-align:{side}">{escape(title)}</th>' for title, side in titles)
        bars = [
            _largest([row[i] for row in self.rows]) if text in _BARRED else 0.0 for i, text in enumerate(self.headings)
        ]
        body = "".join(
            f"<tr>{''.join(map(_html_cell, texts, sides, row, bars))}</tr>"
            for texts, row in zip(shown, self.rows, strict=True)
        )
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _repr_html_(self) -> str:
        return self.html()

    def cells(self) -> tuple[list[list[str]], list[Side]]:
        """Return what every cell shows, and the side that each column's cells stand on: numbers on the right."""
        signed = any(_is_float(cell) and cell < 0 for row in self.rows for cell in row)
        spec = "+.4f" if signed else ".4f"
        shown = [[_shown(cell, spec) for cell in row] for row in self.rows]
        columns = zip(*shown, strict=True) if shown else [()] * len(self.headings)
        return shown, ["right" if all(_is_number(text) for text in column if text) else "left" for column in columns]


def _html_cell(text: str, side: Side, value: object, largest: float) -> str:
    """Return a cell; with a bar behind the number, blue for what raises and red for what lowers."""
    style = f"text-align:{side}"
    if largest and isinstance(value, Real):
        share, colour = 100 * abs(float(value)) / largest, _LOWERS if float(value) < 0 else _RAISES
        style += f";background:linear-gradient(to left,{colour} {share:.0f}%,transparent {share:.0f}%)"
    return f'<td style="{style}">{escape(text)}</td>'


def _largest(column: Sequence[object]) -> float:
    return max((abs(float(value)) for value in column if isinstance(value, Real) and isfinite(value)), default=0.0)


def _shown(cell: object, spec: str) -> str:
    if cell is None:
        return ""
    return format(cell, spec) if _is_float(cell) else printable(str(cell))


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
