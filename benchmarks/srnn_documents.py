"""Slicing on long documents: ``python benchmarks/srnn_documents.py --data FILE FILE [--out FILE] [--plot FILE]``.

A document is put together from sentences of two files, one file per class and one sentence per line (the movie reviews
of Pang and Lee): three sentences in five are of the document's class, the others of the other one, in random order. No
sentence is in two of the parts that train, choose and test. Models have about as many parameters beside the word
vectors, are trained for the same time at a learning rate chosen on validation, with three seeds; the mean of
the word vectors shows what is to be had without any order. ``--jobs`` trains several at once, a core each.

On a processor long documents are slow. There, all models may start from the same word vectors, those of the model
without order (``--vectors SECONDS``; the paper starts from GloVe's), so that they have only to learn to add up words,
and take their learning rates from an earlier table (``--rates-of CSV``).
"""

import argparse
import csv
import random
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from competitors import Library, Mean, MinGRU, Transformer, matched, parameters
from measure import machine, picture
from srnn_quality import (
    BATCH,
    EMBEDDING,
    HELD_OUT,
    HIDDEN,
    RATES,
    SEEDS,
    Last,
    Outcome,
    epochs_of,
    outcome_table,
    plot_curves,
    run_model,
    unsliced,
    write,
    write_curves,
)
from srnn_reviews import split
from srnn_tasks import Make, Task
from srnn_training import Reader, train
from torch import Tensor, nn
from tqdm import tqdm

LENGTHS = (512, 1024, 2048, 4096)
LEAN = 0.6
"""The share of a document's sentences that are of its class."""
LEAST_COUNT = 2
"""A word that training holds less often is left out, as it can teach nothing of itself."""


class Bag(nn.Module):
    """The mean of the word vectors, and a layer on it: no order at all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(EMBEDDING, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.mean(1)).relu()


MODELS: dict[str, tuple[Callable[[int], nn.Module], int]] = {
    "GRU": (unsliced, 1),
    "LSTM": (partial(Library, nn.LSTM, EMBEDDING), 1),
    "LSTM, mean": (partial(Mean, nn.LSTM, EMBEDDING), 1),
    "minGRU": (partial(MinGRU, EMBEDDING), 1),
    "transformer": (partial(Transformer, EMBEDDING), 8),
    "SRNN(16,1)": (lambda width: Last(EMBEDDING, width, 16, 1), 1),
    "SRNN(8,2)": (lambda width: Last(EMBEDDING, width, 8, 2), 1),
    "SRNN(8,3)": (lambda width: Last(EMBEDDING, width, 8, 3), 1),
    "no order": (Bag, 1),
}
"""Each model's encoder from its width, and what the width is a multiple of."""
ON_A_GPU = {"GRU": partial(Library, nn.GRU, EMBEDDING)}
"""Encoders that are faster there: cuDNN's GRU, where SRNN's kernel is made for a processor."""


def documents(paths: Sequence[Path], *, seed: int = 0) -> Task:
    """Return the task of telling a document's class: sentences split 80/10/10, the vocabulary that of training."""
    parts: list[list[list[list[str]]]] = []
    for path in paths:
        sentences = [split(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        random.Random(seed).shuffle(sentences)
        cuts = len(sentences) * 8 // 10, len(sentences) * 9 // 10
        parts.append([sentences[: cuts[0]], sentences[cuts[0] : cuts[1]], sentences[cuts[1] :]])
    counts = Counter(word for of_class in parts for sentence in of_class[0] for word in sentence)
    kept = sorted(word for word, count in counts.items() if count >= LEAST_COUNT)
    ids = {word: i for i, word in enumerate(kept, 1)}
    known = [[[[ids[w] for w in s if w in ids] for s in part] for part in of_class] for of_class in parts]
    train, validation, test = (_maker([of_class[i] for of_class in known]) for i in range(3))
    rule = f"the class of {LEAN:.0%} of its sentences"
    return Task("documents", len(paths), rule, train, (validation, test), len(kept))


def _maker(pools: Sequence[Sequence[Sequence[int]]]) -> Make:
    """Return what puts documents together from the sentences of each class."""

    def make(count: int, T: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        labels = torch.randint(0, len(pools), (count,), generator=g)
        draw = random.Random(int(torch.randint(0, 2**31, (1,), generator=g)))
        texts = torch.tensor([_document(pools, label, T, draw) for label in labels.tolist()])
        return texts, labels

    return make


def _document(pools: Sequence[Sequence[Sequence[int]]], label: int, T: int, draw: random.Random) -> list[int]:
    words: list[int] = []
    others = [pool for i, pool in enumerate(pools) if i != label]
    while len(words) < T:
        words += draw.choice(pools[label] if draw.random() < LEAN else draw.choice(others))
    return words[:T]


def bag_vectors(task: Task, seconds: float, *, T: int = 512) -> Tensor:
    """Return the word vectors that the model without order learns on documents of ``T`` words."""
    torch.set_num_threads(1)
    width = matched(Bag, parameters(Last(EMBEDDING, HIDDEN, 8, 2)))[1]
    torch.manual_seed(0)
    model = Reader(task.words, EMBEDDING, Bag(width), width, task.classes)
    validation = task.held_out[0](HELD_OUT[0], T, torch.Generator().manual_seed(10**6))
    train(model, epochs_of(task, T, 0), validation, None, lr=1e-2, seconds=seconds)
    return model.embedding.weight.detach()


def train_one(
    paths: Sequence[Path], T: int, name: str, args: argparse.Namespace, *, seconds: float, vectors: Tensor | None
) -> Outcome:
    """Train one model on documents of ``T`` words."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.backends.mha.set_fastpath_enabled(False)  # it keeps every weight of attention: ten times slower when long
    build, multiple = MODELS[name]
    if args.device == "cuda":
        build = ON_A_GPU.get(name, build)
    return run_model(
        documents(paths),
        T,
        name,
        build,
        parameters(Last(EMBEDDING, HIDDEN, 8, 2)),
        seconds=seconds,
        seeds=SEEDS,
        rates=rates_of(args.rates_of)[name] if args.rates_of else args.rates,
        multiple=multiple,
        device=args.device,
        batch=args.batch,
        held_out=tuple(args.held_out),
        vectors=vectors,
    )


def rates_of(path: Path) -> dict[str, list[float]]:
    """Return the learning rate of each model in a table of curves."""
    with path.open(newline="") as file:
        return {row["model"]: [float(row["rate"])] for row in csv.DictReader(file)}


def main() -> None:
    """Train and print; ``--out`` writes the tables and curves as well, after every model."""
    args = arguments()
    times = dict(zip(args.lengths, args.seconds * (len(args.lengths) if len(args.seconds) == 1 else 1), strict=True))
    vectors = bag_vectors(documents(args.data), args.vectors) if args.vectors else None
    outcomes: list[Outcome] = []
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        work = [
            pool.submit(train_one, args.data, T, name, args, seconds=seconds, vectors=vectors)
            for T, seconds in times.items()
            for name in args.models
        ]
        for job in tqdm(as_completed(work), total=len(work), desc="models"):
            outcomes = sorted([*outcomes, job.result()], key=lambda o: (o.T, list(MODELS).index(o.model)))
            report(outcomes, args)


def report(outcomes: Sequence[Outcome], args: argparse.Namespace) -> None:
    """Write what there is so far."""
    where = torch.cuda.get_device_name() if args.device == "cuda" else machine()
    where += "" if args.device == "cpu" else f", torch {torch.__version__}"
    together = f", {args.jobs} models at once" if args.jobs > 1 else ""
    text = f"Measured on {where}{together}; denormal numbers flushed.\n"
    if args.vectors:
        text += f"All start from word vectors that the model without order learnt in {args.vectors:g} s.\n"
    for T in sorted({o.T for o in outcomes}):
        text += f"\n#### {T:,} words\n\n{outcome_table([o for o in outcomes if o.T == T])}\n"
    if args.plot:
        plot_curves(outcomes, args.plot)
        text += picture("Accuracy by time and by epochs", args.plot, args.out)
    write(text, args.out)
    if args.out:
        write_curves(outcomes, args.out.with_suffix(".csv"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="a text file per class, a sentence a line")
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument(
        "--seconds", nargs="+", type=float, default=[40.0], help="training time of a run, of all or of each length"
    )
    parser.add_argument("--rates", nargs="+", type=float, default=RATES, help="learning rates to choose from")
    parser.add_argument("--rates-of", type=Path, help="an earlier run's CSV, to take each model's rate from")
    parser.add_argument("--vectors", type=float, metavar="SECONDS", help="train word vectors first, the same for all")
    parser.add_argument("--batch", type=int, default=BATCH, help="documents of a step")
    parser.add_argument(
        "--held-out", nargs=2, type=int, default=HELD_OUT, help="documents of the validation and of the test set"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="on a GPU, time is the wall clock's")
    parser.add_argument("--jobs", type=int, default=1, help="models trained at once, a core each")
    parser.add_argument("--out", type=Path, help="the tables, and beside them every point of every run as CSV")
    parser.add_argument("--plot", type=Path, help="accuracy by time and by epochs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
