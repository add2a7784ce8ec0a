"""Sequences of words with known answers, made from a seed; chance and the best rule are known for each task."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

WORDS = 64
"""Words are 1 to ``WORDS``; the first few carry meaning, the rest fill."""

_FIRST_FILLER = 9
_POSITIVE, _NEGATIVE, _NEGATOR = 1, 2, 3
_A, _B = 4, 5
_SYMBOLS = 8


Make = Callable[[int, int, torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Task:
    """What is asked, and how sequences are made.

    Attributes:
        name: In the tables.
        classes: How many answers there are, all as likely.
        rule: What is asked.
        make: Sequences and answers from their number, their length and a generator.
        held_out: The same for validation and for test, where these are made of other material than training.
        words: How many words there are; 0 is left for padding.
    """

    name: str
    classes: int
    rule: str
    make: Make
    held_out: tuple[Make, Make] | None = None
    words: int = WORDS


def negated_majority(count: int, T: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """More praise or more blame? A tenth of the words, a fifth of them negated by the word before.

    They lean so little to one side that, whatever T is, counting without negation is right four times in five. They
    have odd places in one half of the sequences and even ones in the other, so that the place before is free for a
    negator, and slices part some pairs.
    """
    words = _filler(count, T, g)
    slots = _places(count, T // 2 - 1, max(1, T // 10) | 1, g) * 2 + torch.randint(1, 3, (count, 1), generator=g)
    lean = torch.randint(0, 2, (count, 1), generator=g)
    praise = (torch.rand(slots.shape, generator=g) < 0.5 + 0.7 / slots.shape[1] ** 0.5).long() == lean
    negated = torch.rand(slots.shape, generator=g) < 0.2
    words.scatter_(1, slots, torch.where(praise ^ negated, _POSITIVE, _NEGATIVE))
    before = words.gather(1, slots - 1)
    words.scatter_(1, slots - 1, torch.where(negated, _NEGATOR, before))
    return words, (praise.sum(1) > slots.shape[1] // 2).long()


def order(count: int, T: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Does A come before B? Both once, anywhere."""
    words = _filler(count, T, g)
    places = _places(count, T, 2, g)
    words.scatter_(1, places, torch.tensor([[_A, _B]]).expand(count, 2))
    return words, (places[:, 0] < places[:, 1]).long()


def recall(count: int, T: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which of eight symbols came in the first twentieth? All else is blank, as in the copying tasks of the field."""
    words = torch.full((count, T), _FIRST_FILLER)
    symbol = torch.randint(0, _SYMBOLS, (count,), generator=g)
    place = torch.randint(0, max(1, T // 20), (count, 1), generator=g)
    return words.scatter_(1, place, symbol[:, None] + 1), symbol


TASKS = {
    task.name: task
    for task in (
        Task("majority", 2, "more praise than blame, negation counted", negated_majority),
        Task("order", 2, "A before B", order),
        Task("recall", _SYMBOLS, "which symbol came early", recall),
    )
}


def _filler(count: int, T: int, g: torch.Generator) -> Tensor:
    return torch.randint(_FIRST_FILLER, WORDS + 1, (count, T), generator=g)


def _places(count: int, room: int, wanted: int, g: torch.Generator) -> Tensor:
    """Return ``wanted`` different places out of ``room`` for each sequence."""
    return torch.rand(count, room, generator=g).topk(wanted).indices
