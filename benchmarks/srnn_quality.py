"""What slicing does to accuracy: ``python benchmarks/srnn_quality.py [--out FILE.md] [--quick] [--data FILE ...]``.

Without ``--data``: three tasks with known answers (``srnn_tasks.py``) at T = 512 and 4096. Each model has about as
many parameters, its learning rate is chosen on validation by a run of half the time, and three seeds are trained for
the same time; accuracy is shown against that time (the processor's) and against epochs. The unsliced GRU runs on SRNN's
own kernel, which is faster than torch's on a CPU, so that what is compared is slicing. In full it takes some five hours
of one core; ``--seconds``, ``--hidden``, ``--models``, ``--rates`` and ``--long`` make it shorter.

With ``--data``: the paper's experiment on review files (its Table 2). Files are CSV as published, label first (Amazon,
Yelp_P) or with the columns ``stars`` and ``text`` (Yelp), or text files of a class each, a document a line. ``--glove``
starts from a GloVe file; 10 epochs, batches of 100, Adam at .001, tested at the best epoch on validation.
"""

import argparse
import csv
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import srnn_reviews
import torch
from competitors import DCCNN, Library, Mean, matched, parameters
from measure import machine, markdown, picture
from srnn_tasks import TASKS, Task
from srnn_training import Curve, Reader, train
from torch import Tensor, nn
from tqdm import tqdm

from tl_neuron_attr.srnn import SRNN, SRNNClassifier

EMBEDDING, HIDDEN, BATCH, EPOCH = 32, 50, 50, 500
RATES = (1e-3, 3e-3, 1e-2)
SEEDS = (0, 1, 2)
HELD_OUT = (500, 1000)
"""Sequences of the validation set and of the test set."""
FACTORS = {512: ((16, 1), (8, 2), (4, 3)), 4096: ((16, 1), (8, 2), (8, 3))}


class Last(nn.Module):
    """An SRNN read at its last state."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__()
        self.srnn = SRNN(*args, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.srnn(x)[0]


def unsliced(width: int) -> Last:
    encoder = Last(EMBEDDING, width, k=0)
    encoder.srnn.levels[0].engine = "fused"
    return encoder


def encoders(T: int) -> dict[str, Callable[[int], nn.Module]]:
    """Return each model's encoder from its width."""
    sliced = {f"SRNN({n},{k})": lambda w, n=n, k=k: Last(EMBEDDING, w, n, k) for n, k in FACTORS[T]}
    n, k = FACTORS[T][1]
    return {
        "GRU": unsliced,
        "LSTM": lambda w: Library(nn.LSTM, EMBEDDING, w),
        "LSTM, mean": lambda w: Mean(nn.LSTM, EMBEDDING, w),
        **sliced,
        f"LSTM SRNN({n},{k})": lambda w: Last(EMBEDDING, w, n, k, cell="lstm"),
        "DCCNN": lambda w: DCCNN(EMBEDDING, w, T),
    }


MODELS = list({name: None for T in FACTORS for name in encoders(T)})
"""The names of all models."""


@dataclass(frozen=True)
class Outcome:
    """The runs of a model on a task, one a seed."""

    task: str
    T: int
    model: str
    parameters: int
    lr: float
    seconds: float
    curves: tuple[Curve, ...]

    def mean(self, value: Callable[[Curve], float]) -> float:
        return statistics.fmean(value(c) for c in self.curves)

    def spread(self, value: Callable[[Curve], float]) -> float:
        return statistics.stdev(value(c) for c in self.curves) if len(self.curves) > 1 else 0.0


def run_task(
    task: Task,
    T: int,
    seconds: float,
    seeds: Sequence[int],
    *,
    hidden: int,
    models: Sequence[str],
    rates: Sequence[float],
) -> list[Outcome]:
    """Run the models on one task and length; ``hidden`` is the width of the SRNN that sets the budget."""
    n, k = FACTORS[T][1]
    budget = parameters(Last(EMBEDDING, hidden, n, k))
    chosen = {name: build for name, build in encoders(T).items() if name in models}
    return [
        run_model(task, T, name, build, budget, seconds=seconds, seeds=seeds, rates=rates)
        for name, build in tqdm(chosen.items(), desc=f"{task.name}, T = {T}")
    ]


def run_model(
    task: Task,
    T: int,
    name: str,
    build: Callable[[int], nn.Module],
    budget: int,
    *,
    seconds: float,
    seeds: Sequence[int],
    rates: Sequence[float],
    multiple: int = 1,
    device: str = "cpu",
    batch: int = BATCH,
    held_out: tuple[int, int] = HELD_OUT,
    vectors: Tensor | None = None,
) -> Outcome:
    """Choose the learning rate on validation by runs of half the time, then train each seed, from ``vectors`` if given.

    With a single rate there is nothing to choose.
    """
    width = matched(build, budget, multiple=multiple)[1]
    sets = [
        make(count, T, torch.Generator().manual_seed(seed))
        for make, count, seed in zip(task.held_out or (task.make,) * 2, held_out, (10**6, 10**6 + 1), strict=True)
    ]

    def run(lr: float, seed: int, seconds: float) -> Curve:
        torch.manual_seed(seed)
        model = Reader(task.words, EMBEDDING, build(width), width, task.classes)
        if vectors is not None:
            model.embedding.weight.data.copy_(vectors)
        return train(model.to(device), epochs_of(task, T, seed, batch=batch), *sets, lr=lr, seconds=seconds)

    lr = max(rates, key=lambda lr: run(lr, 10, seconds / 2).best.accuracy) if len(rates) > 1 else rates[0]
    curves = tuple(run(lr, seed, seconds) for seed in seeds)
    return Outcome(task.name, T, name, parameters(build(width)), lr, seconds, curves)


def epochs_of(task: Task, T: int, seed: int, *, batch: int = BATCH) -> Callable[[int], list[tuple[Tensor, Tensor]]]:
    """Yield epochs of sequences never seen before."""

    def epoch(number: int) -> list[tuple[Tensor, Tensor]]:
        ids, labels = task.make(EPOCH, T, torch.Generator().manual_seed(1000 * seed + number))
        return list(zip(ids.split(batch), labels.split(batch), strict=True))

    return epoch


def outcome_table(outcomes: Sequence[Outcome]) -> str:
    """Accuracy on validation on the way, and on test where that was best; means over the seeds; of one length."""
    T, seconds = outcomes[0].T, outcomes[0].seconds
    shared = min(c.last.epoch for o in outcomes for c in o.curves)
    rows = [
        (
            *(o.model, o.parameters, f"{o.lr:g}"),
            *(_percent(o.mean(lambda c, t=share * seconds: c.after(seconds=t))) for share in (0.25, 0.5)),
            _percent(o.mean(lambda c: c.last.accuracy)),
            f"{o.mean(lambda c: c.last.epoch):.1f}",
            _percent(o.mean(lambda c: c.after(epoch=shared))),
            f"{_percent(o.mean(lambda c: c.test))} ± {_percent(o.spread(lambda c: c.test))}",
        )
        for o in outcomes
    ]
    headings = ("model", "parameters", "rate", "25% of the time", "50%", "100%", "epochs", "equal epochs", "test")
    return (
        f"{markdown(headings, rows)}\n\n{seconds:g} s of training a run; epochs of {EPOCH} sequences of {T} words; "
        f"equal epochs are the {shared:.1f} the slowest run had time for."
    )


def _percent(share: float) -> str:
    return "-" if share != share else f"{100 * share:.1f}"


def write_curves(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write every point of every run."""
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["task", "T", "model", "rate", "seed", "seconds", "epoch", "validation accuracy"])
        for o in outcomes:
            for seed, curve in enumerate(o.curves):
                for p in curve.points:
                    table.writerow([o.task, o.T, o.model, o.lr, seed, f"{p.seconds:.2f}", f"{p.epoch:.2f}", p.accuracy])


def plot_curves(outcomes: Sequence[Outcome], path: Path) -> None:
    """Plot the accuracy of every run against time and against epochs, one row per task and length."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    panels = list(dict.fromkeys((o.task, o.T) for o in outcomes))
    figure, axes = plt.subplots(len(panels), 2, figsize=(9, 2.8 * len(panels)), sharey="row", squeeze=False)
    for row, (task, T) in zip(axes, panels, strict=True):
        for i, o in enumerate(o for o in outcomes if (o.task, o.T) == (task, T)):
            for j, curve in enumerate(o.curves):
                label = o.model if j == 0 else None
                accuracies = [p.accuracy for p in curve.points]
                row[0].plot([p.seconds for p in curve.points], accuracies, color=f"C{i}", lw=1, label=label)
                row[1].plot([p.epoch for p in curve.points], accuracies, color=f"C{i}", lw=1)
        row[0].set(title=f"{task}, T = {T}", xlabel="seconds of training", ylabel="accuracy")
        row[1].set(xlabel="epochs", xscale="log")
        row[0].legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def review_table(args: argparse.Namespace) -> str:
    """Return a row of the paper's Table 2 for the files given: validation and test accuracy, seconds per epoch."""
    documents = srnn_reviews.load(args.data, T=args.steps, limit=args.limit)
    vectors = None
    if args.glove:
        vectors = srnn_reviews.glove(args.glove, documents.vocabulary, args.embedding, torch.Generator().manual_seed(0))
    rows = []
    halves = args.steps.bit_length() - 2
    slicings = [(n, k) for n, k in ((2, 0), (16, 1), (8, 2), (4, 3), (2, halves)) if args.steps % n**k == 0]
    for n, k in tqdm(slicings, desc="models"):
        torch.manual_seed(2018)
        sizes = {"embedding_size": args.embedding, "hidden_size": HIDDEN, "n": n, "k": k, "T": args.steps}
        model = SRNNClassifier(len(documents.vocabulary), documents.classes, vectors=vectors, **sizes)
        if k == 0:
            model.srnn.levels[0].engine = "fused"
        rows.append(review_row(f"SRNN({n},{k})" if k else "GRU", model, documents, args.epochs))
    torch.manual_seed(2018)
    dccnn = Reader(
        len(documents.vocabulary), args.embedding, DCCNN(args.embedding, HIDDEN, args.steps), HIDDEN, documents.classes
    )
    if vectors is not None:
        dccnn.embedding.weight.data.copy_(vectors)
    rows.append(review_row("DCCNN", dccnn, documents, args.epochs))
    sizes = [len(part[1]) for part in (documents.train, documents.validation, documents.test)]
    head = (
        f"{sum(sizes):,} documents ({'/'.join(f'{s:,}' for s in sizes)}), {documents.classes} classes, T = {args.steps}"
    )
    return f"{head}\n\n" + markdown(("model", "parameters", "validation", "test", "best epoch", "s an epoch"), rows)


def review_row(name: str, model: nn.Module, documents: srnn_reviews.Documents, epochs: int) -> tuple[object, ...]:
    ids, labels = documents.train

    def epoch(number: int) -> list[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(number)).split(100)
        return [(ids[rows], labels[rows]) for rows in order]

    curve = train(model, epoch, documents.validation, documents.test, lr=1e-3, epochs=epochs)
    accuracies = (f"{100 * curve.best.accuracy:.2f}", f"{100 * curve.test:.2f}")
    return name, parameters(model), *accuracies, f"{curve.best.epoch:.0f}", curve.last.seconds / curve.last.epoch


def main() -> None:
    """Train and print; ``--out`` writes the tables and curves as well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the tables, and beside them every point of every run as CSV")
    parser.add_argument("--plot", type=Path, help="accuracy by time and by epochs")
    parser.add_argument(
        "--quick", action="store_true", help="a second a run at T = 512: a smoke test, not a measurement"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--seconds", type=float, default=40.0, help="training time of a run at T = 512; twice that at 4096"
    )
    parser.add_argument("--hidden", type=int, default=HIDDEN, help="width of the SRNN that sets the parameter budget")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS), help="at T = 512")
    parser.add_argument("--long", nargs="*", choices=TASKS, default=list(TASKS), help="at T = 4096; none if empty")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--rates", nargs="+", type=float, default=RATES, help="learning rates to choose from")
    parser.add_argument("--data", nargs="+", type=Path, help="review files: the paper's experiment instead")
    parser.add_argument(
        "--steps", type=int, default=512, help="words of a document (the paper: 512 for Yelp, 256 for Amazon)"
    )
    parser.add_argument("--embedding", type=int, default=200)
    parser.add_argument("--glove", type=Path, help="word vectors to start from, glove.6B.200d.txt in the paper")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--limit", type=int, help="documents to use, all by default")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    head = f"Measured on {machine()}; denormal numbers flushed.\n"
    for file in (args.out, args.plot):
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
    if args.data:
        write(f"{head}\n{review_table(args)}\n", args.out)
        return
    outcomes: list[Outcome] = []
    seeds = SEEDS[:2] if args.quick else SEEDS
    choices = {"hidden": args.hidden, "models": args.models, "rates": args.rates}
    for name, T in [(n, 512) for n in args.tasks] + [(n, 4096) for n in ([] if args.quick else args.long)]:
        seconds = 1.0 if args.quick else args.seconds * (2 if T == 4096 else 1)
        outcomes += run_task(TASKS[name], T, seconds, seeds, **choices)
        write(head + tables(outcomes) + (plotted(outcomes, args) if args.plot else ""), args.out)
        if args.out:
            write_curves(outcomes, args.out.with_suffix(".csv"))


def tables(outcomes: Sequence[Outcome]) -> str:
    """Return one table per task and length."""
    text = ""
    for task, T in dict.fromkeys((o.task, o.T) for o in outcomes):
        found = [o for o in outcomes if (o.task, o.T) == (task, T)]
        text += f"\n### {task}, T = {T}: {TASKS[task].rule}\n\n{outcome_table(found)}\n"
    return text


def plotted(outcomes: Sequence[Outcome], args: argparse.Namespace) -> str:
    """Return the picture of the runs, drawn, and the line that shows it."""
    plot_curves(outcomes, args.plot)
    return picture("Accuracy by time and by epochs", args.plot, args.out)


def write(text: str, out: Path | None) -> None:
    """Print, and write where asked for: what there is so far, so that nothing is lost on the way."""
    print(text)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text)


if __name__ == "__main__":
    main()
