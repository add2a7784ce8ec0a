"""Which (n, k) suits a length: by the paper's count of steps (paper 4, Eq. 22), or by the clock."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from tl_neuron_attr._typechecked import typechecked_fields
from tl_neuron_attr.srnn.cells import CellName, Factory
from tl_neuron_attr.srnn.slicing import ceil_div, require_integer, sequential_steps

_SLOWEST_TIMED = 4.0
"""How many times the fastest warm-up a candidate's own warm-up may take. A first run may be
slow by chance, but what is four times as slow will not win, and timing it would take most of the time."""


@dataclass(frozen=True)
class Candidate:
    """One way to slice a sequence.

    Attributes:
        n: How many slices a slice is cut into.
        k: How often the sequence is cut.
        slice_len: Steps in a slice of level 0, ``T / n^k`` rounded up; None if k is 0.
        steps: Steps that must run one after another, ``n k + T / n^k`` (Eq. 22).
        ratio: ``steps / T``, the paper's R (Eq. 23).
        seconds: The median run time in seconds; None if it was not timed.
    """

    n: int
    k: int
    slice_len: int | None
    steps: int
    ratio: float
    seconds: float | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Return the keyword arguments for :class:`SRNN`."""
        return {"n": self.n, "k": self.k, "slice_len": self.slice_len}


@typechecked_fields
@dataclass(frozen=True)
class Suggestion:
    """Ways to slice a sequence of ``T`` steps, the best first. It prints as a table.

    Attributes:
        T: The number of steps.
        candidates: The best n for each k; if they were timed, also the best n for which ``n^k`` divides T.
        conditions: What was timed; empty if nothing was.
    """

    T: int
    candidates: tuple[Candidate, ...]
    conditions: str = ""

    @property
    def best(self) -> Candidate:
        """Return the first candidate."""
        return self.candidates[0]

    @property
    def options(self) -> dict[str, Any]:
        """Return the best candidate as keyword arguments for :class:`SRNN`."""
        return self.best.options

    def __str__(self) -> str:
        rows = [
            (
                f"({c.n}, {c.k})" if c.k else "unsliced",
                c.slice_len or self.T,
                c.steps,
                f"{1 / c.ratio:.1f}",
                _milliseconds(c.seconds),
            )
            for c in self.candidates
        ]
        timed = any(c.seconds is not None for c in self.candidates)
        headings = ("(n, k)", "slice", "steps", "1/R", "ms")[: 5 if timed else 4]
        lines = [headings, *(row[: len(headings)] for row in rows)]
        text = "\n".join("".join(f"{cell!s:>9}" for cell in line) for line in lines)
        return f"T = {self.T}{self.conditions}\n{text}"


def suggest(
    network: type[Any],
    T: int,
    *,
    max_k: int = 8,
    measure: bool = False,
    batch: int = 1,
    input_size: int = 200,
    hidden_size: int = 50,
    cell: CellName | Factory = "gru",
    backward: bool = True,
    runs: int = 5,
    device: Any = None,
) -> Suggestion:
    """Return the (n, k) with the fewest sequential steps for ``T`` steps (Eq. 22), or the fastest on this machine.

    Call it as ``SRNN.suggest(T)``. The paper's count assumes that all slices run at once. A CPU cannot do that, so
    ``measure=True`` times, for each k, the n with the fewest steps and the n with the fewest steps whose ``n^k``
    divides T. Candidates run in turn, and those that are far slower than the fastest are dropped after the warm-up.
    ``batch`` and the arguments after it are used only with ``measure=True``.

    Args:
        network: The network to time; :class:`SRNN` passes itself.
        T: The number of steps. ``n^k`` need not divide it, because ``slice_len`` is suggested too.
        max_k: The largest k to consider.
        measure: Whether to time the candidates.
        batch: The number of sequences in a batch.
        input_size: The number of features of a step.
        hidden_size: The number of features of the state.
        cell: The recurrence, as :class:`SRNN` takes it.
        backward: Whether to time the backward pass as well.
        runs: The number of timed runs per candidate, of which the median is taken.
        device: The device to run on.

    Raises:
        TypeError: If a count is not an integer.
        ValueError: If a count is out of range.

    Examples:
        >>> from tl_neuron_attr.srnn import SRNN
        >>> suggestion = SRNN.suggest(512, max_k=4)
        >>> suggestion.options
        {'n': 4, 'k': 4, 'slice_len': 2}
        >>> print(suggestion)
        T = 512
           (n, k)    slice    steps      1/R
           (4, 4)        2       18     28.4
           (4, 3)        8       20     25.6
           (8, 2)        8       24     21.3
          (19, 1)       27       46     11.1
         unsliced      512      512      1.0
    """
    counts = {"T": T, "batch": batch, "input_size": input_size, "hidden_size": hidden_size, "runs": runs}
    for name, value in counts.items():
        require_integer(name, value, at_least=1)
    require_integer("max_k", max_k, at_least=0)
    levels = [k for k in range(max_k + 1) if 2**k <= T]
    candidates = [_fewest_steps(T, k) for k in levels]
    if not measure:
        return Suggestion(T, tuple(sorted(candidates, key=lambda c: (c.steps, c.k))))
    candidates += [c for k in levels if k for c in _fewest_even(T, k) if c not in candidates]
    x = torch.randn(batch, T, input_size, device=device, requires_grad=backward)
    models = [network(input_size, hidden_size, cell=cell, device=device, **c.options) for c in candidates]
    seconds = _time([_pass(model, x, backward=backward) for model in models], runs)
    timed = [replace(c, seconds=s) for c, s in zip(candidates, seconds, strict=True)]
    passes = "forward + backward" if backward else "forward"
    conditions = f", batch {batch}, {input_size} to {hidden_size} features, {passes} on {x.device}"
    return Suggestion(T, tuple(sorted(timed, key=lambda c: (c.seconds is None, c.seconds or c.steps))), conditions)


def _fewest_steps(T: int, k: int) -> Candidate:
    """Return the n with the fewest steps; of equal ones, one whose ``n^k`` divides T, then the smallest."""
    if k == 0:
        return Candidate(n=2, k=0, slice_len=None, steps=T, ratio=1.0)
    return min(_every(T, k), key=lambda c: (c.steps, T % c.n**k != 0, c.n))


def _fewest_even(T: int, k: int) -> list[Candidate]:
    """Return the n with the fewest steps whose ``n^k`` divides T, if any does: no slice is then shorter."""
    return sorted((c for c in _every(T, k) if T % c.n**k == 0), key=lambda c: c.steps)[:1]


def _every(T: int, k: int) -> list[Candidate]:
    """Return every way to cut T steps k times, for k >= 1."""
    steps = {n: sequential_steps(T, (n,) * k) for n in range(2, max(2, round(T ** (1 / k))) + 1) if n**k <= T}
    return [Candidate(n, k, ceil_div(T, n**k), count, count / T) for n, count in steps.items()]


def _pass(model: nn.Module, x: torch.Tensor, *, backward: bool) -> Callable[[], None]:
    def run() -> None:
        with torch.set_grad_enabled(backward):
            last, _ = model(x)
            if backward:
                torch.autograd.grad(last.sum(), [x, *model.parameters()])
        if x.is_cuda:
            torch.cuda.synchronize()

    return run


def _time(ways: Sequence[Callable[[], None]], runs: int) -> list[float | None]:
    """Return each candidate's median seconds, all run in turn; None if its warm-up was too slow."""
    first = [_seconds(way) for way in tqdm(ways, desc="warm-up", delay=10)]
    kept = [i for i, s in enumerate(first) if s <= _SLOWEST_TIMED * min(first)]
    seconds: dict[int, list[float]] = {i: [] for i in kept}
    for _ in tqdm(range(runs), desc="timing", delay=10):
        for i in kept:
            seconds[i].append(_seconds(ways[i]))
    return [statistics.median(seconds[i]) if i in seconds else None for i in range(len(ways))]


def _seconds(way: Callable[[], None]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.3g}"
