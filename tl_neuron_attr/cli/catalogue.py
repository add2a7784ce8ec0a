"""The command ``catalogue``: where in a corpus every MLP neuron is strongest."""

from argparse import Namespace
from pathlib import Path

import click

from tl_neuron_attr.cli.explained import load_model
from tl_neuron_attr.cli.options import InputFile, command, count_option, input_option, model_options, option
from tl_neuron_attr.cli.output import note, ready_folder
from tl_neuron_attr.cli.sharded_study import run_sharded, shard_options


def catalogue_command() -> click.Command:
    """Return ``catalogue``."""
    return command(
        "catalogue",
        _catalogue,
        summary="Find where in a corpus each MLP neuron is strongest.",
        options=[
            input_option(
                "--corpus",
                path_type=str,
                multiple=True,
                show_default="none; needed",
                help="files: .jsonl, .csv, .parquet, hf://DATASET; - is JSONL from stdin; another is one text",
            ),
            click.Argument(["files"], type=InputFile(), metavar="[FILE]...", required=False, nargs=-1),
            option("--field", default="text", help="the column of text"),
            option("--out", show_default="none; needed", help="folder or URL; an unfinished catalogue goes on there"),
            count_option("--chunk", least=2, default=128, help="tokens run at a time"),
            count_option("--top", default=20, help="contexts of each sign kept of each neuron"),
            *shard_options("one per 256 chunks"),
            *model_options(),
        ],
        examples=[
            "tl-neuron-attr catalogue --model smollm2-135m --corpus docs/*.md --out catalogue",
            "tl-neuron-attr catalogue --corpus reviews.parquet --field review --out catalogue --runner pool",
        ],
        when_stopped="the shards done so far are kept in {out}: the same command goes on there",
    )


def _catalogue(args: Namespace) -> int:
    files = [*args.corpus, *args.files]  # a shell writes --corpus docs/*.md as one option and many files
    if not files or args.out is None:
        raise click.UsageError("name the files and the folder: --corpus FILE... --out DIR")
    if "://" not in str(args.out):
        ready_folder(Path(args.out))
    from tl_neuron_attr import sweep

    corpus = sweep.read_corpus(files, field=args.field)
    for problem in corpus.problems:
        note(args, f"left out: {problem}")
    task = sweep.CatalogueTask(top=args.top, batch_size=args.batch_size)
    return run_sharded(args, load_model(args), sweep.corpus_items(corpus.texts, chunk=args.chunk), task)
