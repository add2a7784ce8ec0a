"""The paper's experiment on review files: reading, cutting into words, counting them, GloVe (paper 4, section 4)."""

import csv
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

_SEPARATORS = re.compile(r"[!\"#$%&()*+,\-./:;<=>?@\[\\\]^_`{|}~\t\n\s]+")
"""What Keras 2.1.5 takes for the space between words, as the paper's code does; the apostrophe is part of a word."""


@dataclass(frozen=True)
class Documents:
    """Word ids, 0 for padding, and classes from 0; the vocabulary in the order of its ids, from 1."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    vocabulary: tuple[str, ...]

    @property
    def classes(self) -> int:
        return int(max(part[1].max() for part in (self.train, self.validation, self.test))) + 1


def load(
    paths: Sequence[Path], *, T: int, words: int = 30_000, limit: int | None = None, seed: int = 2018
) -> Documents:
    """Return documents shuffled and split 80/10/10, the ``words`` most frequent words of the training part kept.

    Other words are left out, as the paper's code does; shorter documents are padded and longer ones cut at the end.
    """
    rows = list(tqdm(_rows(paths), desc="reading", unit=" documents", delay=10))
    random.Random(seed).shuffle(rows)
    rows = rows[:limit]
    if len(rows) < 10:
        raise ValueError(f"--data must hold at least 10 documents, got {len(rows)}")
    texts = [split(text) for _, text in tqdm(rows, desc="cutting into words", delay=10)]
    labels = _classes([label for label, _ in rows])
    cuts = len(rows) * 8 // 10, len(rows) * 9 // 10
    counts = Counter(word for text in texts[: cuts[0]] for word in text)
    vocabulary = tuple(word for word, _ in sorted(counts.items(), key=lambda c: (-c[1], c[0]))[:words])
    ids = {word: i for i, word in enumerate(vocabulary, 1)}
    table = torch.zeros(len(texts), T, dtype=torch.long)
    for row, text in zip(table, texts, strict=True):
        known = [ids[word] for word in text if word in ids][:T]
        row[: len(known)] = torch.tensor(known, dtype=torch.long)
    bounds = [slice(0, cuts[0]), slice(*cuts), slice(cuts[1], None)]
    return Documents(*((table[b], labels[b]) for b in bounds), vocabulary)


def split(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return [word for word in _SEPARATORS.split(text.lower()) if word]


def glove(path: Path, vocabulary: Sequence[str], size: int, generator: torch.Generator) -> Tensor:
    """Return word vectors of a GloVe file, the padding's zero; words it lacks are uniform within 0.05, as Keras's."""
    vectors = torch.empty(len(vocabulary) + 1, size).uniform_(-0.05, 0.05, generator=generator)
    vectors[0] = 0
    ids = {word: i for i, word in enumerate(vocabulary, 1)}
    with path.open(encoding="utf-8") as file:
        for line in tqdm(file, desc="GloVe", unit=" words", delay=10):
            word, *values = line.rstrip().split(" ")
            if word in ids:
                if len(values) != size:
                    raise ValueError(f"{path}: the vector of {word!r} has {len(values)} features, not {size}")
                vectors[ids[word]] = torch.tensor([float(v) for v in values])
    return vectors


def _rows(paths: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Yield label and text of every document, from CSV files or from one text file per class, one document per line."""
    for path in paths:
        if path.suffix != ".csv":
            with path.open(encoding="utf-8") as file:
                yield from ((path.name, line) for line in file if line.strip())
            continue
        csv.field_size_limit(sys.maxsize)
        with path.open(encoding="utf-8", newline="") as file:
            yield from _csv_rows(csv.reader(file), path)


def _csv_rows(reader: Iterator[list[str]], path: Path) -> Iterator[tuple[str, str]]:
    """Yield the columns ``stars`` and ``text`` if a header names them, else the first as label and the rest as text."""
    first = next(reader, None)
    if first is None:
        raise ValueError(f"{path} is empty")
    named = {"stars", "text"} <= set(first)
    label, rest = (first.index("stars"), [first.index("text")]) if named else (0, range(1, len(first)))
    for number, row in enumerate(reader if named else [first, *reader], 1):
        if len(row) != len(first):
            raise ValueError(f"{path}: document {number} has {len(row)} columns, the first has {len(first)}")
        yield row[label], " ".join(row[column] for column in rest)


def _classes(labels: Sequence[str]) -> Tensor:
    """Return labels as classes from 0, in their order."""
    names = sorted(set(labels), key=lambda label: (float(label) if label.replace(".", "", 1).isdigit() else 0, label))
    places = {name: i for i, name in enumerate(names)}
    return torch.tensor([places[label] for label in labels])
