"""A corpus of text: read from files, and the catalogue that was made of one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.results.rows import HUB, STDIN, Row, read_rows, read_utf8, unwritable
from tl_neuron_attr.sweep.catalogue_task import CatalogueTask
from tl_neuron_attr.sweep.plan import open_plan

_TABULAR = (".jsonl", ".csv", ".parquet")


@typechecked_fields
@dataclass(frozen=True)
class Corpus:
    """What could be read of some files of text.

    Attributes:
        texts: The documents, in order.
        problems: What was wrong with each row left out: file, line and field.
    """

    texts: tuple[str, ...]
    problems: tuple[str, ...]


@typechecked
def read_corpus(paths: Sequence[str | Path], *, field: str = "text") -> Corpus:
    """Read documents: every row's ``field`` of a ``.jsonl``, ``.csv`` or ``.parquet`` file, any other file as one text.

    ``-`` reads JSONL from standard input, ``hf://NAME?split=test`` a Hugging Face dataset. A row that can't be used is
    left out and named in ``problems``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file is not UTF-8 or not what its name says, or no text is in any.

    Examples:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "reviews.jsonl"
        >>> _ = path.write_text('{"text": "great movie"}\\n{"review": "dull"}')
        >>> found = read_corpus([path])
        >>> found.texts, found.problems[0].endswith("line 2: field 'text' is missing")
        (('great movie',), True)
    """
    texts: list[str] = []
    problems: list[str] = []
    for path in paths:
        if str(path) != STDIN and not str(path).startswith(HUB) and Path(path).suffix.lower() not in _TABULAR:
            texts.append(read_utf8(path))
            continue
        for number, row in read_rows(path):
            if problem := _problem(row, field):
                problems.append(f"{path}, line {number}: {problem}")
            elif not isinstance(row, str):
                texts.append(row[field])
    if not any(texts):
        found = f"; {problems[0]}" if problems else ""
        raise ValueError(f"paths holds no text: {', '.join(map(str, paths)) or 'no file given'}{found}")
    return Corpus(tuple(texts), tuple(problems))


def _problem(row: Row, field: str) -> str:
    """Return what is wrong with a row, or the empty string."""
    if isinstance(row, str):
        return row
    if field not in row:
        return f"field {field!r} is missing"
    if not isinstance(row[field], str):
        return f"field {field!r} must be a text, got {type(row[field]).__name__}"
    return f"field {field!r}: {problem}" if (problem := unwritable(row[field])) else ""


@typechecked
def read_catalogue(out: str | Path, model: Any) -> dict[str, pd.DataFrame]:
    """Return the contexts of a merged catalogue, a frame per layer, for ``to_frame(catalogue=)``.

    Raises:
        FileNotFoundError: If ``out`` holds no study, or one that was not merged.
        ValueError: If the study is no catalogue or of another model, or a file is damaged.
    """
    plan = open_plan(out)
    if not isinstance(plan.task, CatalogueTask):
        raise ValueError(
            f"catalogue={str(out)!r} holds a study of {plan.task.name!r}, no catalogue: name another folder"
        )
    plan.require_model(model)
    names = [f"layer_{layer:02d}" for layer in range(model.cfg.n_layers)]
    files = {name: f"tables/{name}.parquet" for name in names}
    if missing := [file for file in files.values() if not plan.folder.has(file)]:
        raise FileNotFoundError(f"{plan.folder.root} lacks {missing[0]}: run tl-neuron-attr study merge {out}")
    return {name: plan.folder.read_frame(file) for name, file in files.items()}
