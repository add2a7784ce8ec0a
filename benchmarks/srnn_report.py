"""The tables, CSV and plot of ``srnn.py``, from its records."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from measure import Timing, digits, markdown

TARGETS = ((32768, 1, 30.0), (8192, 8, 5.0), (512, 100, 0.9), (2048, 100, 0.9), (8192, 100, 0.9))
"""Steps, batch, and how many times faster than ``nn.GRU`` an SRNN should be."""

MODEL = ("section", "T", "batch", "pass", "model", "slicing", "parameters")
MEASURED = ("runs", "median ms", "min ms", "CPU median ms", "peak MiB")
"""The columns of the CSV."""


@dataclass(frozen=True)
class Record:
    """One model on one case."""

    section: str
    T: int
    batch: int
    kind: str
    way: str
    parameters: int
    timing: Timing
    slicing: str = ""

    @property
    def case(self) -> tuple[int, int, str]:
        """What was run."""
        return self.T, self.batch, self.kind


def by_case(records: Sequence[Record]) -> dict[tuple[int, int, str], dict[str, Record]]:
    """Return the records of each case by the name of their way."""
    found: dict[tuple[int, int, str], dict[str, Record]] = {}
    for record in records:
        found.setdefault(record.case, {})[record.way] = record
    return found


def ratios(records: Sequence[Record], baseline: str, *, times_only: bool = False) -> str:
    """Return the milliseconds of every way, and in brackets how many times faster than the baseline."""
    ways = columns(records)

    def cell(ways_of_case: dict[str, Record], way: str) -> str:
        if way not in ways_of_case:
            return ""
        seconds, base = ways_of_case[way].timing.median, ways_of_case[baseline].timing.median
        times = f"{base / seconds:.2g}x"
        return times if times_only else digits(1000 * seconds) + ("" if way == baseline else f" ({times})")

    rows = [(*case, *(cell(found, way) for way in ways)) for case, found in by_case(records).items()]
    return markdown(("T", "batch", "pass", *ways), rows)


def memory(records: Sequence[Record]) -> str:
    """Return the peak memory of the forward and backward passes."""
    ways = columns(records)
    rows = [
        (T, batch, *(f"{found[way].timing.peak_mib:.0f}" if way in found else "" for way in ways))
        for (T, batch, kind), found in by_case(records).items()
        if kind == "forward + backward"
    ]
    return markdown(("T", "batch", *ways), rows)


def targets(records: Sequence[Record]) -> str:
    """Return the speed asked for against ``nn.GRU``, forward and backward, and what each SRNN reaches."""
    found = by_case(records)
    rows = []
    for T, batch, least in TARGETS:
        ways = found.get((T, batch, "forward + backward"))
        if ways is None:
            continue
        base = ways["nn.GRU"].timing.median
        times = {way: base / r.timing.median for way, r in ways.items() if "SRNN" in way}
        met = sum(t >= least for t in times.values())
        best = max(times, key=times.__getitem__)
        worst = min(times, key=times.__getitem__)
        rows.append(
            (
                T,
                batch,
                f"at least {least:g}",
                f"{times[best]:.3g} {best}",
                f"{times[worst]:.3g} {worst}",
                f"{met} of {len(times)}",
            )
        )
    return markdown(("T", "batch", "times faster than nn.GRU", "best", "worst", "SRNNs that reach it"), rows)


def suggestions(records: Sequence[Record], way: str) -> str:
    """Return how ``way`` slices in each case."""
    found = {(r.T, r.batch): (r.T, r.batch, r.slicing) for r in records if r.way == way}
    return markdown(("T", "batch", "slicing"), list(found.values()))


def losses(records: Sequence[Record], way: str) -> str:
    """Return the cases in which another model is faster than ``way``, and by how much."""
    rows = [
        (r.section, *r.case, r.way, f"{found[way].timing.median / r.timing.median:.2g}x faster")
        for section in dict.fromkeys(r.section for r in records)
        for found in by_case([r for r in records if r.section == section]).values()
        if way in found
        for r in found.values()
        if "SRNN" not in r.way and r.timing.median < found[way].timing.median
    ]
    return markdown(("", "T", "batch", "pass", "model", f"than {way}"), rows)


def columns(records: Sequence[Record]) -> list[str]:
    """Return the ways in the order of their first appearance."""
    return list(dict.fromkeys(record.way for record in records))


def write_csv(records: Sequence[Record], path: Path) -> None:
    """Write every number, in milliseconds and MiB."""
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(MODEL + MEASURED)
        for r in records:
            t = r.timing
            times = [f"{1000 * s:.4g}" for s in (t.median, t.minimum, t.cpu_median)]
            what = [r.section, *r.case, r.way, r.slicing, r.parameters]
            table.writerow([*what, len(t.seconds), *times, f"{t.peak_mib:.1f}"])


def plot(records: Sequence[Record], path: Path) -> None:
    """Plot how many times faster than ``nn.GRU`` each way is, by length: one panel per batch size."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    found = by_case([r for r in records if r.section == "against unsliced"])
    batches = sorted({batch for _, batch, _ in found})
    figure, axes = plt.subplots(1, len(batches), figsize=(4 * len(batches), 3.6), sharey=True, squeeze=False)
    for axis, batch in zip(axes[0], batches, strict=True):
        cases = {T: ways for (T, b, kind), ways in found.items() if b == batch and kind == "forward + backward"}
        for way in columns(records):
            points = [(T, w["nn.GRU"].timing.median / w[way].timing.median) for T, w in cases.items() if way in w]
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=way)
        axis.set(xscale="log", yscale="log", xlabel="steps", title=f"batch {batch}")
        axis.set_xticks(list(cases), [f"{T:,}" for T in cases])
        axis.minorticks_off()
    axes[0][0].set_ylabel("times faster than nn.GRU")
    axes[0][-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
