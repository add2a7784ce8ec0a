"""Training a classifier of word sequences for a time or for epochs, and what its accuracy was on the way."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batches = Callable[[int], Sequence[tuple[Tensor, Tensor]]]
"""The batches of an epoch, by its number."""


class Reader(nn.Module):
    """Word vectors, an encoder that returns one state a sequence, a linear head."""

    def __init__(self, words: int, size: int, encoder: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words + 1, size)
        self.encoder = encoder
        self.head = nn.Linear(width, classes)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(ids)))


@dataclass(frozen=True)
class Point:
    """Return the accuracy on the validation set after some training.

    Seconds are of training only: the processor's, which other processes do not lengthen; on a GPU the wall clock's.
    """

    seconds: float
    epoch: float
    accuracy: float


@dataclass
class Curve:
    """The points of a run, and its accuracy on the test set where it was best on the validation set."""

    points: list[Point] = field(default_factory=list)
    test: float = float("nan")

    @property
    def last(self) -> Point:
        """Return the last point."""
        return self.points[-1]

    @property
    def best(self) -> Point:
        """Return the best on validation, the first of equals."""
        return max(self.points, key=lambda p: p.accuracy)

    def after(self, *, seconds: float = float("inf"), epoch: float = float("inf")) -> float:
        """Return the accuracy at the last point within a time and a number of epochs; not a number before the first."""
        within = [p.accuracy for p in self.points if p.seconds <= seconds and p.epoch <= epoch]
        return within[-1] if within else float("nan")


def train(
    model: nn.Module,
    batches: Batches,
    validation: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor] | None,
    *,
    lr: float,
    seconds: float = float("inf"),
    epochs: int = 10**9,
) -> Curve:
    """Train with Adam, gradients clipped to norm 1, for ``seconds`` or ``epochs``, and test its best state."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    curve, spent, device = Curve(), 0.0, next(model.parameters()).device
    best = copy.deepcopy(model.state_dict())
    for epoch in range(epochs):
        share, done = batches(epoch), 0
        while done < len(share) and spent < seconds:
            ids, labels = (t.to(device) for t in share[done])
            start = clock(device)
            optimizer.zero_grad()
            F.cross_entropy(model(ids), labels).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            spent += clock(device) - start
            done += 1
        point = Point(spent, epoch + done / len(share), accuracy(model, *validation, batch=len(share[0][0])))
        curve.points.append(point)
        if curve.best is point:
            best = copy.deepcopy(model.state_dict())
        if spent >= seconds:
            break
    if test is not None:
        model.load_state_dict(best)
        curve.test = accuracy(model, *test, batch=len(share[0][0]))
    return curve


def clock(device: torch.device) -> float:
    """Return the processor's time, or on a GPU the wall clock's once its work is done."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.no_grad()
def accuracy(model: nn.Module, ids: Tensor, labels: Tensor, *, batch: int) -> float:
    """Return the share of right answers; batches no larger than those of training need no more memory."""
    model.eval()
    device = next(model.parameters()).device
    right = sum(
        int((model(part.to(device)).argmax(1).cpu() == label).sum())
        for part, label in zip(ids.split(batch), labels.split(batch), strict=True)
    )
    model.train()
    return right / len(labels)
