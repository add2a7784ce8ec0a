"""The command ``tl-neuron-attr``: report pages, tables of neurons and heads, the papers' numbers compared."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tl_neuron_attr.cli import cna, icl, models
from tl_neuron_attr.cli.options import (
    add_model,
    add_prediction,
    load_model,
    prediction,
    ready_folder,
    ready_page,
    tokens_of,
    warn_of_spelling,
)

_INTERRUPTED = 130
"""What a shell reports for a program that Ctrl-C ended."""
_SIZES = {
    "value_attn": "attention value neurons zeroed",
    "value_mlp": "MLP value neurons zeroed",
    "query": "query neurons zeroed",
    "shared": "best neurons of a prompt among which shared ones are counted",
    "heads": "share of all heads zeroed for other types",
}
_EPILOG = """examples:
  tl-neuron-attr report --prompt "Tim Duncan plays the sport of" --target " basketball"
  tl-neuron-attr report --prompt "The capital of France is" --model smollm2-135m --html paris.html
  tl-neuron-attr neurons --prompt "3 + 5 =" -k 10 --format csv
  tl-neuron-attr study --prompts facts.jsonl --model gpt2-large --out study
  tl-neuron-attr cna --prompt "3 + 5 =" --html cna.html
  tl-neuron-attr heads --prompt "3 + 5 ="
  tl-neuron-attr icl --model gpt2-large --data reviews.csv --text review --label sentiment --out icl.html
  tl-neuron-attr models
  tl-neuron-attr reproduce gpt2-large

Exit codes: 0 done, 1 something was wrong with the input or the numbers disagree, 2 the command line makes no sense,
130 stopped by Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Whatever goes wrong is one line on stderr; ``--debug`` shows the traceback instead.
    """
    _accept_any_text()
    args = parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except KeyboardInterrupt:
        print("tl-neuron-attr: stopped", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough: `| head`
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  # Python flushes it at its exit
        return 0
    except Exception as error:
        if args.debug:
            raise
        print(f"tl-neuron-attr: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


def _accept_any_text() -> None:
    """Print what the terminal's encoding lacks as escapes: a token's text can be in any script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def parser() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    top = argparse.ArgumentParser(
        "tl-neuron-attr",
        description="Which neurons made the model say that.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    page = commands.add_parser("report", help="write one HTML page: layers, heads, source tokens, value neurons")
    add_prediction(page)
    page.add_argument("--html", type=Path, default=Path("report.html"), help="where the page goes (report.html)")
    page.add_argument("--heads", type=int, default=8, help="how many heads are shown in detail (8)")
    page.set_defaults(run=run_report)

    table = commands.add_parser("neurons", help="print the value neurons as a table, CSV or JSON")
    add_prediction(table)
    table.add_argument("--format", choices=("table", "csv", "json"), default="table")
    table.add_argument("--site", choices=("mlp", "attn", "both"), default="both")
    table.add_argument("--suppressing", action="store_true", help="the neurons that lower the target most")
    table.set_defaults(run=run_neurons)

    study = commands.add_parser("study", help="where types of knowledge live: Parquet files and one HTML page")
    study.add_argument("--prompts", type=Path, help="JSONL of prompt, target, type; default: the bundled model's facts")
    study.add_argument(
        "--out", type=Path, required=True, help="folder of the results; an unfinished study goes on there"
    )
    study.add_argument("--per-type", type=int, help="at most so many prompts of each type")
    for name, what in _SIZES.items():
        study.add_argument(f"--{name.replace('_', '-')}", type=float if name == "heads" else int, help=what)
    add_model(study, default="the bundled model")
    study.set_defaults(run=run_study)

    cna.add_cna(commands)
    icl.add_icl(commands)
    models.add_models(commands)

    compare = commands.add_parser("reproduce", help="compare the authors' printed numbers with ours")
    compare.add_argument("paper", choices=("gpt2-large", "llama-7b"))
    compare.add_argument("--tolerance", type=float, default=0.02, help="agreement, in nats (0.02)")
    add_model(compare, default="the authors' model, from the hub or its local cache")
    compare.set_defaults(run=run_reproduce)
    return top


def run_report(args: argparse.Namespace) -> int:
    """Run ``report``."""
    from tl_neuron_attr.vis import report

    ready_page(args.html)
    model = load_model(args)
    logits, cache = model.run_with_cache(tokens_of(model, args))
    warn_of_spelling(model, logits, args)
    view = report(cache, args.target, k=args.k, heads=args.heads, pos=args.pos, contrast=args.contrast)
    print(f"wrote {view.save(args.html).resolve()}")
    return 0


def run_neurons(args: argparse.Namespace) -> int:
    """Run ``neurons``."""
    from tl_neuron_attr.knowledge.value_neurons import value_neurons

    model = load_model(args)
    logits, cache = model.run_with_cache(tokens_of(model, args))
    warn_of_spelling(model, logits, args)
    target = prediction(logits, args.pos) if args.target is None else args.target
    sites = ("mlp", "attn") if args.site == "both" else (args.site,)
    found = value_neurons(
        cache, target, args.k, sites=sites, largest=not args.suppressing, pos=args.pos, contrast=args.contrast
    )[0]
    if args.format == "table":
        print(found)
    elif args.format == "csv":
        frame = found.to_frame()
        print(frame.assign(promoted=frame["promoted"].map(" | ".join)).to_csv(index=False), end="")
    else:
        print(found.to_frame().to_json(orient="records", force_ascii=False, indent=2))
    return 0


def run_study(args: argparse.Namespace) -> int:
    """Run ``study``."""
    from dataclasses import replace

    from tl_neuron_attr import evaluate
    from tl_neuron_attr.vis import study as page

    ready_folder(args.out)
    prompts = evaluate.facts()
    if args.prompts is not None:
        file = evaluate.read_prompts(args.prompts)
        prompts = evaluate.by_type(file.prompts)
        for problem in file.problems:
            print(f"left out: {problem}", file=sys.stderr)
    model = load_model(args)
    given = {name: getattr(args, name) for name in _SIZES if getattr(args, name) is not None}
    sizes = replace(evaluate.Sizes.fitting(model), **given)
    limited = {kind: group[: args.per_type] for kind, group in prompts.items()}
    found = evaluate.knowledge_study(model, limited, sizes=sizes, out=args.out)
    print(found)
    print(f"wrote {page(found, name=model.cfg.model_name).save(args.out / 'study.html').resolve()}")
    return 0


def run_reproduce(args: argparse.Namespace) -> int:
    """Run ``reproduce``."""
    from tl_neuron_attr.knowledge.reproduce import BOOT_NAMES, reproduce

    model = load_model(args, BOOT_NAMES[args.paper])
    result = reproduce(model, paper=args.paper, tolerance=args.tolerance)
    print(result)
    return 0 if result.agrees else 1
