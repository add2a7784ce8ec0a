"""What commands print and write: tables as wide as the terminal, CSV, JSON, pages."""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from tl_neuron_attr.results.table import PrintsAsTable, Table
    from tl_neuron_attr.vis import View

_BETWEEN = 3
"""Columns of a terminal that rich puts between two columns of a table, and at its sides."""
_LEAST = 8
"""What is left of the widest text, however narrow the terminal: enough for a token."""


def show(found: "PrintsAsTable | Table", *, caption: str | None = None) -> None:
    """Print a table: in a terminal in colour and no wider than it, elsewhere whole and plain."""
    from tl_neuron_attr.results.table import Table

    table = found if isinstance(found, Table) else found.table()
    table = table if caption is None else replace(table, caption=caption)
    if not sys.stdout.isatty():
        print(table)
        return
    from rich.console import Console

    console = Console(highlight=False)
    if table.caption:
        console.print(table.caption, markup=False)
    console.print(_in_colour(table, console.width))


def _in_colour(table: "Table", room: int) -> Any:
    """Return a rich table: what raises blue, what lowers red; the widest text is cut where there is no room for it."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    cells, sides = table.cells()
    widths = [max(map(len, column)) for column in zip(table.headings, *cells, strict=True)]
    widest = max((i for i, side in enumerate(sides) if side == "left"), key=lambda i: widths[i], default=0)
    left = room - sum(widths) + widths[widest] - _BETWEEN * len(widths)
    shown = RichTable(box=SIMPLE_HEAD, pad_edge=False)
    widths[widest] = min(widths[widest], max(left, _LEAST))
    for heading, side, width in zip(table.headings, sides, widths, strict=True):
        shown.add_column(heading, justify=side, no_wrap=True, width=width)
    for row, values in zip(cells, table.rows, strict=True):
        shown.add_row(*(Text(text, _colour(value)) for text, value in zip(row, values, strict=True)))
    return shown


def _colour(value: object) -> str:
    if not isinstance(value, float):
        return ""
    return "blue" if value > 0 else "red" if value < 0 else ""


def print_csv(frame: "pd.DataFrame", extra: Mapping[str, Any], *, header: bool = True) -> None:
    """Print a frame as CSV, lists joined by " | ", with columns that say the same in every row behind it."""
    lists = {str(name): column.map(" | ".join) for name, column in frame.items() if _is_of_lists(column)}
    print(frame.assign(**lists, **extra).to_csv(index=False, header=header), end="")


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False))


def rows_of(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return a frame's rows as plain values of JSON, None where there is no value."""
    return json.loads(frame.to_json(orient="records", double_precision=10))


def note(args: Namespace, text: str) -> None:
    """Print a note on stderr, unless ``--quiet``."""
    if not args.quiet:
        print(text, file=sys.stderr)


def write_page(args: Namespace, view: "View", path: Path | None = None) -> None:
    """Write a page, say where it is, and open it where that was asked for."""
    import click

    written = view.save(args.html if path is None else path).resolve()
    if not args.quiet:
        print(f"wrote {written}")
    if getattr(args, "open", False):
        click.launch(str(written))


def ready_page(path: Path | None) -> None:
    """Make the folder of a page, if there is to be one; called before the work, so that no result is lost.

    Raises:
        OSError: If the page cannot be written there.
    """
    if path is None:
        return
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder and the page needs a file name: {path / 'page.html'}")
    ready_folder(path.parent)


def ready_folder(path: Path) -> Path:
    """Make a folder of results and return its path.

    Raises:
        OSError: If there is a file of that name on the way, or the folder cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(f"{path} cannot be made a folder: a file has its name or a parent's") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} cannot be written: choose another place")
    return path


def _is_of_lists(column: "pd.Series[Any]") -> bool:
    values: Sequence[Any] = column.tolist()
    return bool(values) and isinstance(values[0], list)
