"""The prompts of a knowledge study, from a file or of the bundled model's world."""

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.demo import knowledge
from tl_neuron_attr.demo.hashing import fraction
from tl_neuron_attr.results.rows import HUB, STDIN, Row, read_rows, unwritable


@typechecked_fields
@dataclass(frozen=True)
class StudyPrompt:
    """A prompt, what answers it, and the type of knowledge it asks for: one line of a study's file."""

    prompt: str
    target: str
    type: str


@typechecked_fields
@dataclass(frozen=True)
class PromptFile:
    """What could be read of a file of prompts.

    Attributes:
        prompts: The prompts, in order.
        problems: What was wrong with each line left out: file, line and field.
    """

    prompts: tuple[StudyPrompt, ...]
    problems: tuple[str, ...]


@typechecked
def read_prompts(path: str | Path | Iterable[Mapping[str, Any]]) -> PromptFile:
    """Read a JSONL file of objects with the string fields ``prompt``, ``target`` and ``type``; or CSV, or Parquet.

    ``-`` reads JSONL from standard input, ``hf://NAME?split=test`` a Hugging Face dataset. Rows that are there already,
    such as a ``datasets.Dataset``, are taken as they are.

    Empty lines are passed over. A line that can't be used is left out and named in ``problems``, and the rest is read.
    A file of relations (ParaRel and the like: a template and pairs of subject and object) has one line per pair::

        {"prompt": "The capital of France is", "target": " Paris", "type": "capital"}

    The target is taken as it is written, so a tokenizer that marks spaces needs the leading one.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not UTF-8, a dataset can't be loaded, or no line can be used.
        ImportError: If a dataset is named and the package ``datasets`` is not installed.

    Examples:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "prompts.jsonl"
        >>> _ = path.write_text('{"prompt": "3 + 5 =", "target": "8", "type": "sum"}\\n{"prompt": "3 - 1 ="}')
        >>> found = read_prompts(path)
        >>> len(found.prompts), found.problems[0].endswith("line 2: field 'target' is missing")
        (1, True)
    """
    if not isinstance(path, str | Path):
        name, rows = "the rows given", enumerate(path, 1)
    elif str(path) == STDIN or str(path).startswith(HUB) or Path(path).is_file():
        name, rows = str(path), read_rows(path)
    else:
        raise FileNotFoundError(f"no prompt file at {path}")
    prompts: list[StudyPrompt] = []
    problems: list[str] = []
    for number, row in rows:
        read = _read(row)
        if isinstance(read, StudyPrompt):
            prompts.append(read)
        else:
            problems.append(f"{name}, line {number}: {read}")
    if not prompts:
        raise ValueError(f"{name} holds no prompt" + (f"; {problems[0]}" if problems else " and is empty"))
    return PromptFile(tuple(prompts), tuple(problems))


def _read(row: Row) -> StudyPrompt | str:
    """Return the prompt of a row, or what is wrong with it."""
    if isinstance(row, str):
        return row
    for name in ("prompt", "target", "type"):
        if name not in row:
            return f"field {name!r} is missing"
        if not isinstance(row[name], str) or not row[name]:
            return f"field {name!r} must be a text that is not empty, got {reprlib.repr(row[name])}"
        if problem := unwritable(row[name]):
            return f"field {name!r}: {problem}"
    if problem := unnamed(row["type"]):
        return f"field 'type': {problem}"
    return StudyPrompt(row["prompt"], row["target"], row["type"])


def unnamed(kind: str) -> str:
    """Return what keeps ``kind`` from being the name of a type of knowledge, or the empty string.

    Types name columns of files and sections of pages, which hold no control characters.

    Examples:
        >>> unnamed("capital"), unnamed("capital\\n")
        ('', "'capital\\\\n' holds a control character")
    """
    if not kind.strip():
        return f"{kind!r} is empty"
    return "" if kind.isprintable() else f"{kind!r} holds a control character"


@typechecked
def by_type(prompts: Iterable[StudyPrompt]) -> dict[str, list[StudyPrompt]]:
    """Return prompts grouped by type, in order of appearance.

    Examples:
        >>> list(by_type([StudyPrompt("a", "b", "x"), StudyPrompt("c", "d", "y")]))
        ['x', 'y']
    """
    groups: dict[str, list[StudyPrompt]] = {}
    for prompt in prompts:
        groups.setdefault(prompt.type, []).append(prompt)
    return groups


@typechecked
def study_facts(kinds: Sequence[str] = knowledge.KINDS, *, per_type: int = 20) -> dict[str, list[StudyPrompt]]:
    """Return facts of the bundled model's world, in pairs of subject and template that it was not trained on.

    Raises:
        ValueError: If a kind is none of ``demo.KINDS``.

    Examples:
        >>> {kind: len(group) for kind, group in study_facts(["sport", "month"], per_type=3).items()}
        {'sport': 3, 'month': 3}
    """
    found: dict[str, list[StudyPrompt]] = {}
    for kind in kinds:
        mixed = sorted(knowledge.facts(kind, split="held_out"), key=lambda fact: fraction("study", fact.text))
        found[kind] = [StudyPrompt(fact.text, fact.answer, kind) for fact in mixed[:per_type]]
    return found
