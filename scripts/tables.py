"""Tables of results as Markdown, and what they took."""

import time
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import torch


def markdown(frame: pd.DataFrame, digits: int = 3) -> str:
    """Return a frame as a Markdown table; columns in nats keep two digits where the others have one."""
    formats = tuple(f".{max(digits, 2) if 'nats' in str(name) else digits}f" for name in frame.columns)
    return frame.to_markdown(index=False, floatfmt=formats)


def ranged(mean: float, low: float, high: float, spec: str = ".3f") -> str:
    """Return a mean with its interval."""
    return f"{mean:{spec}} [{low:{spec}}, {high:{spec}}]"


class Stopwatch:
    """What a measurement took: processor time, which other processes do not lengthen; on a GPU the wall clock's."""

    def __init__(self, device: str = "cpu") -> None:
        self.gpu = device.startswith("cuda")
        self.clock = time.perf_counter if self.gpu else time.process_time
        self.started = self.clock()

    def __str__(self) -> str:
        seconds = f"{self.clock() - self.started:.0f}"
        if self.gpu:
            return f"{seconds} seconds on one {torch.cuda.get_device_name()}"
        threads = torch.get_num_threads()
        return f"{seconds} CPU seconds on {'one thread' if threads == 1 else f'{threads} threads'}"


def write_as_measured(path: Path, heading: str, sections: Iterable[tuple[str, str]]) -> None:
    """Write each section, a title and a body, when it is there; a later one of the same title takes its place."""
    spent, done = Stopwatch(), {}
    for title, body in sections:
        done[title] = f"\n#### {title}\n\n{body}\n\n{spent} so far.\n"
        path.write_text(f"### {heading}\n" + "".join(done.values()))
        print(f"{title}\n{body}\n{spent}", flush=True)
