"""Tables of results as Markdown, what they took, and how a script measures and writes them."""

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import tl_neuron_attr as tna


def markdown(frame: pd.DataFrame, digits: int = 3) -> str:
    """Return a frame as a Markdown table; columns in nats keep two digits where the others have one."""
    formats = tuple(f".{max(digits, 2) if 'nats' in str(name) else digits}f" for name in frame.columns)
    return frame.to_markdown(index=False, floatfmt=formats)


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


def measure(parser: ArgumentParser, sections: Callable[[Any, Namespace], Iterable[tuple[str, str]]]) -> None:
    """Run a script that measures one model on one thread, and write each section, a title and a body, when it is there.

    A later section of the same title takes the place of the first.

    Args:
        parser: The script's options, ``--model`` among them; ``--seed`` and ``--out`` are added.
        sections: Measures, of the model and the options.
    """
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = tna.load(options.model)
    spent, done = Stopwatch(), {}
    for title, body in sections(model, options):
        done[title] = f"\n#### {title}\n\n{body}\n\n{spent} so far.\n"
        options.out.write_text(f"### {model.cfg.model_name}\n" + "".join(done.values()))
        print(f"{title}\n{body}\n{spent}", flush=True)
