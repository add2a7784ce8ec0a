"""Timing ways side by side in one process: warm-up, interleaved runs, wall and CPU time, median and minimum, memory."""

import ctypes
import gc
import os
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
    cpu_seconds: tuple[float, ...]
    peak_mib: float

    @property
    def median(self) -> float:
        """Return the middle run."""
        return statistics.median(self.seconds)

    @property
    def minimum(self) -> float:
        """Return the fastest run."""
        return min(self.seconds)

    @property
    def cpu_median(self) -> float:
        """Return the middle run by the processor's time, which other processes do not lengthen."""
        return statistics.median(self.cpu_seconds)


def side_by_side(ways: Mapping[str, Callable[[], object]], *, runs: int, warm_up: int = 1) -> dict[str, Timing]:
    """Run every way in turn, over and over, so that a machine that slows down slows all of them.

    Memory is measured on one more run each, after giving back to the system what the allocator keeps.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(warm_up + runs):
        for name, way in ways.items():
            gc.collect()
            start, cpu_start = time.perf_counter(), time.process_time()
            way()
            elapsed, cpu_elapsed = time.perf_counter() - start, time.process_time() - cpu_start
            if run >= warm_up:
                seconds[name].append(elapsed)
                cpu_seconds[name].append(cpu_elapsed)
    return {name: Timing(tuple(seconds[name]), tuple(cpu_seconds[name]), _peak(way)) for name, way in ways.items()}


def machine() -> str:
    """Return the processor, the thread count and the torch version, for the head of a table."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor")
    threads = torch.get_num_threads()
    return f"{model}, {threads} thread{'s' if threads > 1 else ''}, torch {torch.__version__.split('+')[0]}"


def markdown(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; floats with three significant digits."""
    cells = [[digits(c) if isinstance(c, float) else str(c) for c in row] for row in rows]
    rule = ["---" if i == 0 else "--:" for i in range(len(headings))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [list(headings), rule, *cells])


def picture(caption: str, path: Path, page: Path | None) -> str:
    """Return a line that shows ``path`` on pages in the folder above ``page``, which include it."""
    return f"\n![{caption}]({os.path.relpath(path, (page or path).parent.parent)})\n"


def digits(number: float) -> str:
    """Return three significant digits, without an exponent where the number is large."""
    return f"{number:.3g}" if abs(number) < 1000 else f"{number:,.0f}"


def _peak(way: Callable[[], object]) -> float:
    """Return the MiB in use at the peak of a run, above those before it."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    way()
    return _status("VmHWM") - before


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))
