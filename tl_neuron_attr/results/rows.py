"""Rows of a CSV or JSONL file as users have them: what can't be read is named, and never changed in silence."""

import csv
import io
import json
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qsl

import pandas as pd

STDIN = "-"
HUB = "hf://"
Row = Mapping[str, Any] | str
"""A row's values by column, or what is wrong with it."""


def read_rows(path: str | Path) -> Iterator[tuple[int, Row]]:
    """Yield the line number and the values of each row of a ``.csv`` or ``.parquet`` file, or of a JSONL file.

    A file of any other name is read as JSONL; ``-`` is standard input; ``hf://NAME`` is a Hugging Face dataset, by its
    name on the hub or a folder of its files: the split ``train``, or the one after ``?split=``.

    A row that can't be read is what is wrong with it instead, and the rest is read. Empty lines are passed over. A
    byte-order mark, as Excel writes it, is no part of the text.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not UTF-8, naming byte and line; or a CSV file names a column twice; or a dataset
            can't be loaded.
        ImportError: If a dataset is named and the package ``datasets`` is not installed.

    Examples:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "rows.jsonl"
        >>> _ = path.write_text('{"text": "great movie"}\\n{"text":', encoding="utf-8-sig")
        >>> list(read_rows(path))
        [(1, {'text': 'great movie'}), (2, 'not JSON (Expecting value at column 9)')]
    """
    if str(path).startswith(HUB):
        yield from _dataset(str(path))
        return
    if Path(path).suffix.lower() == ".parquet":
        yield from _parquet(path)
        return
    text = sys.stdin.read() if str(path) == STDIN else read_utf8(path)
    yield from _csv(text, path) if Path(path).suffix.lower() == ".csv" else _jsonl(text)


def read_utf8(path: str | Path) -> str:
    """Return the text of a UTF-8 file, without its byte-order mark.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not UTF-8, naming byte and line.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file at {path}")
    data = Path(path).read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{error.object[error.start]:02X}"
        raise ValueError(f"{path}, line {line}: {byte} is not UTF-8: save the file as UTF-8") from error


def unwritable(text: str) -> str:
    """Return what keeps ``text`` from being written or tokenised, or the empty string.

    A lone surrogate is half of a character: JSON may escape it, no encoding can hold it.

    Examples:
        >>> unwritable("plain"), unwritable("half \\ud83d").split(" holds ")[1]
        ('', 'half a character')
    """
    return f"{text[:40]!r} holds half a character" if any("\ud800" <= c <= "\udfff" for c in text) else ""


def parse_json(text: str) -> Any:
    """Return the value of a JSON text in which no object names a field twice and no number is NaN or infinite.

    Raises:
        ValueError: If it is not such a text, saying where.

    Examples:
        >>> parse_json('{"subject": "France", "object": "Paris"}')["object"]
        'Paris'
    """
    try:
        return json.loads(text, object_pairs_hook=_without_twins, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column" if "\n" in text else "column"
        raise ValueError(f"not JSON ({error.msg} at {at} {error.colno})") from error
    except RecursionError as error:
        raise ValueError("not JSON (nested too deeply)") from error
    except ValueError as error:
        raise ValueError(f"not JSON ({str(error).split(';')[0]})") from error


def _parquet(path: str | Path) -> Iterator[tuple[int, Row]]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file at {path}")
    try:
        rows = pd.read_parquet(path).to_dict("records")
    except (ValueError, OSError, KeyError) as error:
        raise ValueError(f"{path} is not Parquet: {str(error).splitlines()[0][:150]}") from error
    yield from ((i, {str(name): value for name, value in row.items()}) for i, row in enumerate(rows, 1))


def _dataset(url: str) -> Iterator[tuple[int, Row]]:
    name, _, query = url.removeprefix(HUB).partition("?")
    given = dict(parse_qsl(query, keep_blank_values=True))
    if not name or given.keys() - {"split"} or (query and not given.get("split")):
        raise ValueError(f"{url} names no dataset: write {HUB}NAME or {HUB}NAME?split=test")
    try:
        load_dataset = import_module("datasets").load_dataset
    except ImportError as error:
        raise ImportError(f"{url} needs the package datasets: pip install datasets") from error
    try:
        rows = load_dataset(name, split=given.get("split", "train"))
    except Exception as error:  # of any of the libraries that read its files
        raise ValueError(f"{url} can't be loaded: {str(error).splitlines()[0][:200]}") from error
    yield from ((i, dict(row)) for i, row in enumerate(rows, 1))


def _csv(text: str, path: str | Path) -> Iterator[tuple[int, Row]]:
    with _fields_of(len(text)):
        rows = list(_csv_rows(csv.reader(io.StringIO(text, newline=""), strict=True)))
    header = next((fields for _, fields in rows), [])
    if isinstance(header, str):
        raise ValueError(f"{path}, line 1: {header}")
    if twice := [name for name in header if header.count(name) > 1]:
        raise ValueError(f"{path}, line 1: column {twice[0]!r} is named twice")
    for line, fields in rows[1:]:
        if isinstance(fields, str):
            yield line, fields
        elif len(fields) > len(header):
            yield line, f"{len(fields)} fields in a table of {len(header)} columns: quote fields that hold commas"
        else:
            yield line, dict(zip(header, [*fields, *[None] * (len(header) - len(fields))], strict=True))


def _csv_rows(reader: Any) -> Iterator[tuple[int, list[str] | str]]:
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, f"not CSV ({error})"
        else:
            if fields:
                yield reader.line_num, fields


@contextmanager
def _fields_of(size: int) -> Generator[None]:
    """Let CSV fields be as long as the file; the limit is the module's, of 131,072 characters, and put back."""
    before = csv.field_size_limit()
    csv.field_size_limit(max(before, size + 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _jsonl(text: str) -> Iterator[tuple[int, Row]]:
    lines = io.StringIO(text, newline=None)  # not splitlines(), which ends a line at characters that JSON may hold
    yield from ((number, _json(line.rstrip("\n"))) for number, line in enumerate(lines, 1) if line.strip())


def _json(line: str) -> Row:
    try:
        value = parse_json(line)
    except ValueError as error:
        return str(error)
    return value if isinstance(value, dict) else f"not an object but {type(value).__name__}"


def _without_twins(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"field {name!r} is given twice")
        found[name] = value
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no value of JSON")
