"""The prompts of a knowledge study, from a file, and which of them a model knows well enough to be asked."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from tl_neuron_attr import demo
from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.demo.hashing import fraction
from tl_neuron_attr.model.batches import batches
from tl_neuron_attr.model.targets import token_id

KEPT = "kept"
TOP = 10
"""The target must be among this many likeliest tokens (paper 1, section 4.1)."""


@dataclass(frozen=True)
class StudyPrompt:
    """A prompt, the token that answers it, and the type of knowledge it asks for."""

    prompt: str
    target: str
    type: str


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
def read_prompts(path: str | Path) -> PromptFile:
    """Read a JSONL file of objects with the string fields ``prompt``, ``target`` and ``type``, one a line.

    Empty lines are passed over; a line that will not do is left out and told of, and the rest is read. A file of
    relations (ParaRel and the like: a template and pairs of subject and object) is one line a pair::

        {"prompt": "The capital of France is", "target": " Paris", "type": "capital"}

    The target is taken as it is written, so a tokenizer that marks spaces needs the leading one.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If no line will do.

    Examples:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "prompts.jsonl"
        >>> _ = path.write_text('{"prompt": "3 + 5 =", "target": "8", "type": "sum"}\\n{"prompt": "3 - 1 ="}')
        >>> found = read_prompts(path)
        >>> len(found.prompts), found.problems[0].endswith("line 2: field 'target' is missing")
        (1, True)
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no prompt file at {path}")
    prompts: list[StudyPrompt] = []
    problems: list[str] = []
    with Path(path).open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            read = _read(line) if line.strip() else ""
            if isinstance(read, StudyPrompt):
                prompts.append(read)
            elif read:
                problems.append(f"{path}, line {number}: {read}")
    if not prompts:
        raise ValueError(f"{path} holds no prompt" + (f"; {problems[0]}" if problems else " and is empty"))
    return PromptFile(tuple(prompts), tuple(problems))


def _read(line: str) -> StudyPrompt | str:
    """The prompt of a line, or what is wrong with it."""
    try:
        value: Any = json.loads(line)
    except json.JSONDecodeError as error:
        return f"not JSON ({error.msg} at column {error.colno})"
    if not isinstance(value, dict):
        return f"not an object but {type(value).__name__}"
    fields: dict[str, Any] = value
    for name in ("prompt", "target", "type"):
        if name not in fields:
            return f"field {name!r} is missing"
        if not isinstance(fields[name], str) or not fields[name]:
            return f"field {name!r} must be a text that is not empty, got {fields[name]!r}"
    return StudyPrompt(fields["prompt"], fields["target"], fields["type"])


@typechecked
def by_type(prompts: Iterable[StudyPrompt]) -> dict[str, list[StudyPrompt]]:
    """Prompts grouped by type, in order of appearance.

    Examples:
        >>> list(by_type([StudyPrompt("a", "b", "x"), StudyPrompt("c", "d", "y")]))
        ['x', 'y']
    """
    groups: dict[str, list[StudyPrompt]] = {}
    for prompt in prompts:
        groups.setdefault(prompt.type, []).append(prompt)
    return groups


@typechecked
def facts(kinds: Sequence[str] = demo.KINDS, *, per_type: int = 20) -> dict[str, list[StudyPrompt]]:
    """Facts of the bundled model's world, in pairs of subject and template that it was not trained on.

    Raises:
        ValueError: If a kind is none of ``demo.KINDS``.

    Examples:
        >>> {kind: len(group) for kind, group in facts(["sport", "month"], per_type=3).items()}
        {'sport': 3, 'month': 3}
    """
    found: dict[str, list[StudyPrompt]] = {}
    for kind in kinds:
        mixed = sorted(demo.facts(kind, split="held_out"), key=lambda fact: fraction("study", fact.text))
        found[kind] = [StudyPrompt(fact.text, fact.answer, kind) for fact in mixed[:per_type]]
    return found


@typechecked
@torch.no_grad()
def select(model: Any, prompts: Sequence[StudyPrompt], *, batch_size: int = 32) -> pd.DataFrame:
    """The selection rule of paper 1, section 4.1, and what it leaves.

    A prompt is kept if its target is one token, among the model's ten likeliest, and likelier than every other target
    of its type.

    Returns:
        A row a prompt: ``prompt``, ``target``, ``type``, ``target_id`` (-1 if it is not one token), ``status``:
        ``"kept"`` or why not.
    """
    ids = [_token_or_none(model, p.target) for p in prompts]
    words: dict[str, set[int]] = {}
    for prompt, token in zip(prompts, ids, strict=True):
        if token is not None:
            words.setdefault(prompt.type, set()).add(token)
    status = ["the target is not one token"] * len(prompts)
    for batch in batches(model, [p.prompt for p in prompts], batch_size=batch_size):
        logits = model(batch.tokens)[:, -1]
        for i, row in zip(batch.indices, logits, strict=True):
            if (token := ids[i]) is not None:
                status[i] = _status(row, token, words[prompts[i].type])
    rows: list[Mapping[str, Any]] = [
        {"prompt": p.prompt, "target": p.target, "type": p.type, "target_id": -1 if t is None else t, "status": s}
        for p, t, s in zip(prompts, ids, status, strict=True)
    ]
    return pd.DataFrame(rows)


def _status(logits: torch.Tensor, token: int, words: set[int]) -> str:
    if int((logits > logits[token]).sum()) >= TOP:
        return f"the target is not among the {TOP} likeliest tokens"
    if any(bool(logits[other] >= logits[token]) for other in words - {token}):
        return "another target of its type is likelier"
    return KEPT


def _token_or_none(model: Any, target: str) -> int | None:
    try:
        return token_id(model, target, "target")
    except ValueError:
        return None
