"""What slicing saves, and where it loses: ``python benchmarks/srnn.py [--out FILE.md] [--plot FILE.svg]``.

1. SRNN(n, k) against ``nn.GRU``, ``nn.LSTM`` and the unsliced GRU on SRNN's own kernel, which tells what slicing saves
   from what the kernel saves; forward, and forward + backward with the gradients of the input and of all parameters.
2. The other cells sliced against themselves unsliced.
3. Models of as many parameters: minGRU and QRNN with a parallel scan, a dilated causal CNN, a one-layer transformer.
4. The same with denormal numbers left on, a trap for every timing of long unsliced recurrences.
5. On a GPU (``--device cuda``) only the paper's Table 3.

Every case is run in this process, all its ways in turn, 7 times after a warm-up. Equal computations are compared before
they are timed. ``--lengths``, ``--batches``, ``--most`` and ``--sections`` choose cases: in full it takes over an hour
of one idle core; ``--most 204800 --others 16384`` some twelve minutes, with every target but that of T = 8192, batch
100.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from competitors import DCCNN, QRNN, Library, MinGRU, Transformer, matched, parameters, scan
from measure import machine, markdown, picture, side_by_side
from srnn_report import Record, losses, memory, plot, ratios, suggestions, targets, write_csv
from torch import Tensor, nn
from tqdm import tqdm

from tl_neuron_attr.srnn import SRNN

INPUT, HIDDEN = 200, 50
FACTORS = ((16, 1), (8, 2), (4, 3), (2, 8), (8, 4))
SUGGESTED = "SRNN, suggested"
RUNS = 7
SECTIONS = ("gru", "cells", "parameters", "denormals")
MAX_INPUT_BYTES = 2**30
CUDNN_NUMBERS = 2**31
"""cuDNN counts the numbers of an input in 32 bits: a longer one ended in an illegal access of memory."""
PASSES = {"forward": False, "forward + backward": True}


@dataclass(frozen=True)
class Case:
    """Sequences of ``T`` steps, ``batch`` at a time."""

    T: int
    batch: int

    def input(self, device: str = "cpu") -> Tensor:
        return torch.randn(self.batch, self.T, INPUT, device=device, requires_grad=True)

    @property
    def size(self) -> tuple[int, int]:
        return self.T, self.batch

    @property
    def fits(self) -> bool:
        return 4 * self.T * self.batch * INPUT <= MAX_INPUT_BYTES


def cases(lengths: Sequence[int], batches: Sequence[int], most: float) -> list[Case]:
    """Return the lengths and batches that fit, and hold no more than ``most`` steps in all."""
    every = (Case(T, batch) for T in lengths for batch in batches)
    return [case for case in every if case.fits and case.T * case.batch <= most]


class Last(nn.Module):
    """An SRNN read at its last state."""

    def __init__(self, srnn: SRNN) -> None:
        super().__init__()
        self.srnn = srnn

    def forward(self, x: Tensor) -> Tensor:
        return self.srnn(x)[0]


def sliced(cell: str, T: int, factors: Sequence[tuple[int, int]] = FACTORS) -> Iterator[tuple[str, nn.Module]]:
    """Return the paper's SRNNs that divide ``T``."""
    for n, k in factors:
        if T % n**k == 0:
            yield f"SRNN({n},{k})", Last(SRNN(INPUT, HIDDEN, n, k, cell=cell))


def unsliced_fused(gru: nn.GRU) -> Last:
    """Return ``gru`` on SRNN's kernel, uncut."""
    srnn = SRNN(INPUT, HIDDEN, k=0)
    srnn.levels[0].cell.load_state_dict(gru.state_dict())
    srnn.levels[0].engine = "fused"
    return Last(srnn)


def suggested(case: Case) -> Last:
    """Return what ``SRNN.suggest`` finds fastest on this machine."""
    sizes = {"input_size": INPUT, "hidden_size": HIDDEN, "batch": case.batch}
    options = SRNN.suggest(case.T, measure=True, runs=3, **sizes).options
    return Last(SRNN(INPUT, HIDDEN, **options))


def against_unsliced(case: Case) -> dict[str, nn.Module]:
    gru = Library(nn.GRU, INPUT, HIDDEN)
    models = {
        "nn.GRU": gru,
        "nn.LSTM": Library(nn.LSTM, INPUT, HIDDEN),
        "GRU, our kernel": unsliced_fused(gru.rnn),
        **dict(sliced("gru", case.T)),
        SUGGESTED: suggested(case),
    }
    require_equal("the unsliced kernel and nn.GRU", models["GRU, our kernel"], gru, case)
    for name, model in models.items():
        if isinstance(model, Last) and model.srnn.slicing.k:
            require_equal(name, model, by_the_library(model), case)
    return models


def against_themselves(case: Case) -> dict[str, nn.Module]:
    keras = SRNN(INPUT, HIDDEN, k=0, cell="keras_gru")
    keras.levels[0].engine = "fused"
    models: dict[str, nn.Module] = {"nn.LSTM": Library(nn.LSTM, INPUT, HIDDEN), "Keras GRU": Last(keras)}
    for cell, label in (("lstm", "LSTM"), ("keras_gru", "Keras")):
        models |= {f"{label} {name}": model for name, model in sliced(cell, case.T, ((8, 2), (4, 3)))}
    return models


def of_as_many_parameters(case: Case) -> dict[str, nn.Module]:
    srnn = Last(SRNN(INPUT, HIDDEN, 8, 2))
    budget = parameters(srnn)
    builders: dict[str, Callable[[int], nn.Module]] = {
        "nn.GRU": lambda width: Library(nn.GRU, INPUT, width),
        "nn.LSTM": lambda width: Library(nn.LSTM, INPUT, width),
        "LSTM SRNN(8,2)": lambda width: Last(SRNN(INPUT, width, 8, 2, cell="lstm")),
        "minGRU": lambda width: MinGRU(INPUT, width),
        "QRNN": lambda width: QRNN(INPUT, width),
        "DCCNN": lambda width: DCCNN(INPUT, width, case.T),
    }
    models: dict[str, nn.Module] = {"SRNN(8,2)": srnn}
    models |= {name: matched(build, budget)[0] for name, build in builders.items()}
    models["transformer"] = matched(lambda width: Transformer(INPUT, width), budget, multiple=8)[0]
    return models


def by_the_library(model: Last) -> Last:
    """Return the same weights with every level as one call of torch's cell."""
    first = model.srnn
    n, cell = first.slicing.factors, type(first.levels[0].cell)
    twin = SRNN(INPUT, HIDDEN, n, cell=cell, slice_len=first.slicing.slice_len)
    twin.load_state_dict(first.state_dict())
    for level in twin.levels:
        level.engine = "library"
    return Last(twin)


def require_equal(name: str, model: nn.Module, twin: nn.Module, case: Case) -> None:
    """Check that values agree to 1e-6, and gradients of the weights to 1e-5 of the largest."""
    x = Case(case.T, min(case.batch, 2)).input()
    a, b = model(x), twin(x)
    if (a - b).abs().max() > 1e-6:
        raise AssertionError(f"{name}: values differ by {(a - b).abs().max():.1e}")
    grads = (torch.autograd.grad(y.sum(), list(m.parameters())) for y, m in ((a, model), (b, twin)))
    for p, q in zip(*grads, strict=True):
        apart = (p - q).abs().max() / q.abs().max()
        if apart > 1e-5:
            raise AssertionError(f"{name}: gradients differ by {apart:.1e} of the largest")


def require_scan_is_a_loop() -> None:
    a, b = torch.rand(2, 77, 3, dtype=torch.float64), torch.randn(2, 77, 3, dtype=torch.float64)
    h, states = torch.zeros(2, 3, dtype=torch.float64), []
    for t in range(77):
        h = a[:, t] * h + b[:, t]
        states.append(h)
    torch.testing.assert_close(scan(a, b), torch.stack(states, dim=1), rtol=0, atol=1e-12)


def timed(section: str, build: Callable[[Case], dict[str, nn.Module]], chosen: list[Case], runs: int) -> list[Record]:
    """Time every model of every case, forward and backward."""
    records: list[Record] = []
    for case in tqdm(chosen, desc=section):
        models, x = build(case), case.input()
        for name, backward in PASSES.items():
            ways = {label: step(model, x, backward) for label, model in models.items()}
            for label, timing in side_by_side(ways, runs=runs).items():
                model = models[label]
                slicing = f"n={list(model.srnn.slicing.factors)}" if isinstance(model, Last) else ""
                records.append(Record(section, *case.size, name, label, parameters(model), timing, slicing))
    return records


def step(model: nn.Module, x: Tensor, backward: bool) -> Callable[[], None]:
    def run() -> None:
        with torch.set_grad_enabled(backward):
            last = model(x)
            if backward:
                torch.autograd.grad(last.sum(), [x, *model.parameters()])
        if x.is_cuda:
            torch.cuda.synchronize()

    return run


def gemm_peak() -> float:
    """Return the fastest matrix product of 1024 x 1024, in GF/s: what no recurrence can exceed."""
    a = torch.randn(1024, 1024)
    return 2 * 1024**3 / side_by_side({"gemm": lambda: a @ a}, runs=9)["gemm"].minimum / 1e9


def paper_table(runs: int) -> str:
    """Measure Table 3 of the paper: SRNN(8,2), (8,3), (8,4) at T = 512, 4096, 32768 against cuDNN's recurrences."""
    rows: list[tuple[object, ...]] = []
    for T, (k, claim) in {512: (2, 13.5), 4096: (3, 52.9), 32768: (4, 136.0)}.items():
        for batch in (1, 8, 64, 256, 1024):
            case = Case(T, batch)
            if T * batch * INPUT >= CUDNN_NUMBERS:
                continue
            models = {
                "nn.GRU": Library(nn.GRU, INPUT, HIDDEN),
                "nn.LSTM": Library(nn.LSTM, INPUT, HIDDEN),
                "SRNN": Last(SRNN(INPUT, HIDDEN, 8, k)),
            }
            x = case.input("cuda")
            ways = {name: step(model.to("cuda"), x, True) for name, model in models.items()}
            gru, lstm, srnn = (t.median for t in side_by_side(ways, runs=runs, warm_up=2).values())
            rows.append((T, f"SRNN(8,{k})", batch, 1e3 * gru, 1e3 * lstm, 1e3 * srnn, gru / srnn, lstm / srnn, claim))
            print(rows[-1], flush=True)
    headings = ("T", "model", "batch", "nn.GRU ms", "nn.LSTM ms", "SRNN ms", "times nn.GRU", "times nn.LSTM")
    return markdown((*headings, "paper, GTX 1080"), rows)


def measured(args: argparse.Namespace) -> tuple[dict[str, str], list[Record]]:
    """Return the tables of the sections chosen by their titles, and every number."""
    require_scan_is_a_loop()
    chosen = cases(args.lengths, args.batches, args.most)
    few = [case for case in chosen if case.T * case.batch <= args.others]
    records: list[Record] = []
    tables: dict[str, str] = {}
    if "gru" in args.sections:
        gru = timed("against unsliced", against_unsliced, chosen, args.runs)
        records += gru
        tables |= {
            "The targets": targets(gru),
            "GRU: milliseconds, and times faster than nn.GRU": ratios(gru, "nn.GRU"),
            "The same against nn.LSTM, the fast unsliced baseline on a CPU": ratios(gru, "nn.LSTM", times_only=True),
            "What `SRNN.suggest` chose": suggestions(gru, SUGGESTED),
            "Peak memory above the input, MiB": memory(gru),
        }
    if "cells" in args.sections:
        others = timed("other cells", against_themselves, few, args.runs)
        records += others
        tables["Other cells: milliseconds, and times faster than nn.LSTM"] = ratios(others, "nn.LSTM")
    if "parameters" in args.sections:
        equal = timed("as many parameters", of_as_many_parameters, few, args.runs)
        records += equal
        title = "Models of as many parameters: milliseconds, and times as fast as SRNN(8,2)"
        tables[title] = ratios(equal, "SRNN(8,2)")
    tables["Where SRNN(8,2) loses"] = losses(records, "SRNN(8,2)")
    if "denormals" in args.sections:
        torch.set_flush_denormal(False)
        denormal = timed("denormals on", against_unsliced, [Case(2048, 8)], args.runs)
        torch.set_flush_denormal(True)
        records += denormal
        tables["With denormal numbers: T = 2048, batch 8"] = ratios(denormal, "nn.GRU")
    return tables, records


def main() -> None:
    """Measure and print; ``--out`` writes the tables as well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the tables, and beside them every number as CSV")
    parser.add_argument("--plot", type=Path, help="times faster than nn.GRU by length")
    parser.add_argument("--lengths", nargs="+", type=int, default=[512, 2048, 8192, 32768])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 100])
    parser.add_argument("--most", type=int, default=2**21, help="steps of a case, all its sequences together")
    parser.add_argument("--others", type=int, default=2**17, help="the same for other cells and other models")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    if args.device == "cuda":
        sections, records = {"Table 3 of the paper": paper_table(args.runs)}, []
        head = f"Measured on {torch.cuda.get_device_name()}, torch {torch.__version__}.\n"
    else:
        sections, records = measured(args)
        head = (
            f"Measured on {machine()}; denormal numbers flushed unless a table says otherwise; float32, {INPUT} "
            f"features to {HIDDEN}; medians of {len(records[0].timing.seconds)} interleaved runs by the wall clock "
            f"(CPU time and minima are in the CSV); a matrix product of 1024 x 1024 reaches {gemm_peak():.0f} GF/s.\n"
        )
    text = head + "".join(f"\n### {title}\n\n{table}\n" for title, table in sections.items())
    print(text)
    if args.plot and "gru" in args.sections and records:
        args.plot.parent.mkdir(parents=True, exist_ok=True)
        plot(records, args.plot)
        text += picture("Times faster than nn.GRU, by length", args.plot, args.out)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text)
        if records:
            write_csv(records, args.out.with_suffix(".csv"))


if __name__ == "__main__":
    main()
