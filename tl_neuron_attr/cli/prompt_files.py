"""The prompts of a command on predictions: the one it is given, or those of a file, each with its target."""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from tl_neuron_attr.cli.explained import NamedTarget, prompt_of, target_of
from tl_neuron_attr.cli.output import note


def prompts_of(args: Namespace) -> Iterator[tuple[str, NamedTarget | None]]:
    """Yield each prompt with its target, None for the model's own prediction.

    Raises:
        ValueError: If no line of the file can be used.
    """
    if args.prompts is None:
        yield prompt_of(args), target_of(args)
        return
    if any(given is not None for given in (args.text, args.prompt, args.prompt_file)):
        raise click.UsageError("give --prompts or a prompt, not both")
    yield from _read_prompts(args.prompts, args)


def _read_prompts(path: Path, args: Namespace) -> list[tuple[str, NamedTarget | None]]:
    from tl_neuron_attr.results.rows import read_rows

    read: list[tuple[str, NamedTarget | None]] = []
    for line, row in read_rows(path):
        if problem := row if isinstance(row, str) else _problem(row):
            note(args, f"left out: {path}, line {line}: {problem}")
        elif not isinstance(row, str):
            read.append((row["prompt"], row.get("target") or target_of(args)))
    if not read:
        raise ValueError(f'{path} holds no prompt: one line is an object such as {{"prompt": "3 + 5 ="}}')
    return read


def _problem(row: Any) -> str:
    """Return what is wrong with a line of prompts, or the empty string."""
    from tl_neuron_attr.results.rows import unwritable

    for name in ("prompt", "target"):
        value = row.get(name)
        if value is None and (name == "target" or name not in row):
            continue
        if not isinstance(value, str) or not value:
            return f"field {name!r} must be a text that is not empty, got {value!r}"
        if problem := unwritable(value):
            return f"field {name!r}: {problem}"
    return "" if row.get("prompt") else "field 'prompt' is missing"


def with_progress(
    texts: list[tuple[str, NamedTarget | None]], args: Namespace
) -> Iterator[tuple[str, NamedTarget | None]]:
    """Yield the prompts, with a bar behind two seconds where there are several."""
    from tqdm import tqdm

    yield from tqdm(texts, desc="prompts", unit="prompt", delay=2, disable=args.quiet or len(texts) == 1)
