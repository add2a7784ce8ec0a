"""Timing two or more ways side by side in one process: warm-up, interleaved runs, median and minimum, peak memory."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of the counted runs, and the peak of memory above what was in use before, in MiB."""

    seconds: tuple[float, ...]
    peak_mib: float

    @property
    def median(self) -> float:
        """The middle run."""
        return statistics.median(self.seconds)

    @property
    def minimum(self) -> float:
        """The fastest run."""
        return min(self.seconds)


def side_by_side(ways: Mapping[str, Callable[[], object]], *, runs: int, warm_up: int = 1) -> dict[str, Timing]:
    """Run every way in turn, over and over, so that a machine that slows down slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    peaks = dict.fromkeys(ways, 0.0)
    for run in range(warm_up + runs):
        for name, way in ways.items():
            gc.collect()
            before = _reset_peak()
            start = time.perf_counter()
            way()
            elapsed = time.perf_counter() - start
            peaks[name] = max(peaks[name], _status("VmHWM") - before)
            if run >= warm_up:
                seconds[name].append(elapsed)
    return {name: Timing(tuple(seconds[name]), peaks[name]) for name in ways}


def machine() -> str:
    """The processor, the thread count and the torch version, for the head of a table."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor")
    threads = torch.get_num_threads()
    return f"{model}, {threads} thread{'s' if threads > 1 else ''}, torch {torch.__version__.split('+')[0]}"


def markdown(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; floats with three significant digits."""
    cells = [[f"{c:.3g}" if isinstance(c, float) else str(c) for c in row] for row in rows]
    rule = ["---" if i == 0 else "--:" for i in range(len(headings))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [list(headings), rule, *cells])


def _reset_peak() -> float:
    """Forget the peak so far; the memory in use now, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))
