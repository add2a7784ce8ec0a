"""Demonstrations and queries from the bundled world, a CSV or JSONL file, or a Hugging Face dataset."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol, runtime_checkable

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.incontext.icl_prompt import END, SEPARATOR, IclPrompt, tokenised
from tl_neuron_attr.results.rows import read_rows, unwritable

DEMO_END = " . "
"""The end of a demonstration in the bundled world."""


@runtime_checkable
class LabelledPrompt(Protocol):
    """The attributes of a prompt that :func:`from_demo` needs; those of ``tna.demo.in_context`` have them."""

    @property
    def text(self) -> str:
        """The words before the answer."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """The label words."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """The class each label stands for."""
        ...

    @property
    def sequence(self) -> tuple[int, ...]:
        """The label index of each demonstration."""
        ...

    @property
    def gold(self) -> int:
        """The label index of the answer."""
        ...

    @property
    def label_positions(self) -> tuple[int, ...]:
        """The position of each demonstration's label."""
        ...

    @property
    def separator_positions(self) -> tuple[int, ...]:
        """The position of each demonstration's separator, then that of the query."""
        ...

    @property
    def query(self) -> str:
        """The words of the query."""
        ...


@typechecked_fields
@dataclass(frozen=True)
class Example:
    """A text and its class."""

    text: str
    label: str


@typechecked_fields
@dataclass(frozen=True)
class ExampleFile:
    """The examples read from a source, and the rows that could not be read.

    Attributes:
        examples: The examples, in order.
        problems: One message per row left out, naming source, row and column.
    """

    examples: tuple[Example, ...]
    problems: tuple[str, ...]


@typechecked
def read_examples(
    source: str | Path | Iterable[Mapping[str, Any]], *, text: str = "text", label: str = "label"
) -> ExampleFile:
    """Read examples of a ``.csv`` or ``.jsonl`` file, or of rows such as a Hugging Face dataset's.

    A row that can't be used is left out and named in ``problems``, and the rest is read. Where a dataset's label column
    is a number with names (``ClassLabel``), the names are taken.

    Args:
        source: A path, or an iterable of mappings.
        text: The column of the texts.
        label: The column of the classes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another kind or not UTF-8, or no row can be used.

    Examples:
        >>> found = read_examples([{"sentence": "great movie", "label": 1}, {"sentence": ""}], text="sentence")
        >>> found.examples, found.problems
        ((Example(text='great movie', label='1'),), ("rows, row 2: column 'sentence' is empty",))
    """
    name = str(source) if isinstance(source, str | Path) else "rows"
    names = _class_names(source, label)
    examples: list[Example] = []
    problems: list[str] = []
    for number, row in enumerate(_rows(source), 1):
        read = _read(row, text, label, names)
        if isinstance(read, Example):
            examples.append(read)
        else:
            problems.append(f"{name}, row {number}: {read}")
    if not examples:
        raise ValueError(f"{name} holds no example" + (f"; {problems[0]}" if problems else " and is empty"))
    return ExampleFile(tuple(examples), tuple(problems))


@typechecked
def icl_prompts(
    model: Any,
    examples: Sequence[Example],
    n: int,
    *,
    k: int = 4,
    labels: Sequence[str] = ("foo", "bar"),
    classes: Sequence[str] | None = None,
    counts: Sequence[int] | None = None,
    separator: str = SEPARATOR,
    end: str = END,
    seed: int = 0,
) -> list[IclPrompt]:
    """Draw ``n`` prompts with ``k`` demonstrations and a query each; every label is right equally often.

    Args:
        model: The model whose tokenizer is used.
        examples: Texts and their classes.
        n: How many prompts.
        k: How many demonstrations.
        labels: The label words.
        classes: The class each label stands for, in all prompts; drawn anew for every prompt by default, so that a
            label's meaning is in the prompt only.
        counts: How many demonstrations each label has; as even as possible by default.
        separator: Between a text and its label.
        end: Between a label and the next text.
        seed: The same seed gives the same prompts.

    Raises:
        ValueError: If a class has too few examples, ``counts`` do not add up to ``k``, or as :func:`icl_prompt`.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> rows = [Example(f"{adjective} movie", "good") for adjective in ("great", "lovely", "superb")]
        >>> rows += [Example(f"{adjective} movie", "bad") for adjective in ("awful", "boring", "dull")]
        >>> [prompt.counts for prompt in icl_prompts(tna.demo.load(), rows, 2)]
        [(2, 2), (2, 2)]
    """
    if counts is not None and (len(counts) != len(labels) or sum(counts) != k or min(counts) < 1):
        raise ValueError(
            f"counts must be a number above 0 for each of the {len(labels)} labels, adding up to k = {k}, "
            f"got {tuple(counts)}"
        )
    if n < 1 or k < len(labels):
        raise ValueError(f"n must be at least 1 and k at least the number of labels, {len(labels)}, got {n} and {k}")
    if classes is not None and len(classes) != len(labels):
        raise ValueError(f"classes must name a class for each of the {len(labels)} labels, got {tuple(classes)}")
    of_class = _by_class(examples)
    rng = Random(f"icl {seed}")
    drawn = (_draw(rng, of_class, labels, classes, counts, k, i % len(labels)) for i in range(n))
    return [
        tokenised(model, demonstrations, query, gold, tuple(labels), separator, end, chosen)
        for demonstrations, query, gold, chosen in drawn
    ]


@typechecked
def from_demo(model: Any, prompts: Sequence[LabelledPrompt]) -> list[IclPrompt]:
    """Return prompts of :func:`tl_neuron_attr.demo.in_context` for the bundled model or any other.

    Raises:
        ValueError: If a prompt has no right answer (neutral and empty queries), or as :func:`icl_prompt`.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> drawn = tna.demo.in_context(3, 4)
        >>> [p.label_positions for p in from_demo(model, drawn)] == [p.label_positions for p in drawn]
        True
    """
    return [_from_demo(model, prompt) for prompt in prompts]


def _from_demo(model: Any, prompt: LabelledPrompt) -> IclPrompt:
    if prompt.gold < 0:
        raise ValueError(f"no label is right for the query {prompt.query!r}: draw ordinary, strong or weak queries")
    words = prompt.text.split()
    starts = [0, *(position + 1 for position in prompt.label_positions)]  # behind label and full stop, BOS not counted
    texts = [" ".join(words[start : stop - 1]) for start, stop in zip(starts, prompt.separator_positions, strict=True)]
    demonstrations = tuple(zip(texts[:-1], prompt.sequence, strict=True))
    return tokenised(
        model, demonstrations, prompt.query, prompt.gold, prompt.labels, SEPARATOR, DEMO_END, prompt.classes
    )


def _rows(source: str | Path | Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any] | str]:
    """Yield the rows of a source, or what is wrong with one."""
    if not isinstance(source, str | Path):
        yield from source
        return
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"no file of examples at {path}")
    if path.suffix.lower() not in (".csv", ".jsonl", ".json"):
        raise ValueError(f"{path} must be a .csv or .jsonl file")
    yield from (row for _, row in read_rows(path))


def _read(row: Mapping[str, Any] | str, text: str, label: str, names: Sequence[str] | None) -> Example | str:
    """Return the example of a row, or what is wrong with it."""
    if isinstance(row, str):
        return row
    for column in (text, label):
        if row.get(column) is None:
            return f"column {column!r} is missing; there are {[str(name) for name in row]}"
        if not str(row[column]).strip():
            return f"column {column!r} is empty"
        if problem := unwritable(str(row[column])):
            return f"column {column!r}: {problem}"
    value = row[label]
    if names is None:
        return Example(_one_line(row[text]), str(value).strip())
    if not isinstance(value, int) or not 0 <= value < len(names):
        return f"column {label!r} is {value!r}, none of the classes 0 to {len(names) - 1}"
    return Example(_one_line(row[text]), names[value])


def _one_line(text: Any) -> str:
    """Return a text without line breaks, which would end a demonstration, or spaces at its ends."""
    return " ".join(str(text).split())


def _class_names(source: Any, label: str) -> Sequence[str] | None:
    """Return the names of a Hugging Face dataset's classes, or None."""
    features = getattr(source, "features", None) or {}
    return getattr(features.get(label), "names", None)


def _by_class(examples: Sequence[Example]) -> dict[str, list[str]]:
    """Return the different texts of each class."""
    groups: dict[str, dict[str, None]] = {}
    for example in examples:
        groups.setdefault(example.label, {})[example.text] = None
    return {name: list(texts) for name, texts in groups.items()}


def _draw(
    rng: Random,
    of_class: Mapping[str, Sequence[str]],
    labels: Sequence[str],
    classes: Sequence[str] | None,
    counts: Sequence[int] | None,
    k: int,
    gold: int,
) -> tuple[tuple[tuple[str, int], ...], str, int, tuple[str, ...]]:
    """Return demonstrations, query, right label and classes of one prompt."""
    if classes is None and len(of_class) < len(labels):
        raise ValueError(f"examples are of {len(of_class)} classes, labels of {len(labels)}: give fewer labels")
    chosen = tuple(rng.sample(sorted(of_class), len(labels)) if classes is None else classes)
    sequence = [label for label, count in enumerate(counts or _even(rng, k, len(labels))) for _ in range(count)]
    texts: list[list[str]] = []
    for label, name in enumerate(chosen):
        wanted = sequence.count(label) + (label == gold)
        if len(of_class.get(name, ())) < wanted:
            raise ValueError(
                f"the class {name!r} has {len(of_class.get(name, ()))} different texts, a prompt needs {wanted}"
            )
        texts.append(rng.sample(list(of_class[name]), wanted))
    query = texts[gold].pop()
    rng.shuffle(sequence)
    return tuple((texts[label].pop(), label) for label in sequence), query, gold, chosen


def _even(rng: Random, k: int, n: int) -> list[int]:
    """Return each label's number of demonstrations, ``k`` in all; random labels get the remainder."""
    more = set(rng.sample(range(n), k % n))
    return [k // n + (label in more) for label in range(n)]
