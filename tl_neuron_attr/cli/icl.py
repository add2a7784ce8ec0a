"""The command ``tl-neuron-attr icl``: in-context heads and the two biases, as tables and one page."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tl_neuron_attr.cli.options import add_model, load_model, ready_page

if TYPE_CHECKING:
    from transformer_lens import ActivationCache

    from tl_neuron_attr.incontext import IclBiases, IclPrompt, InContextHeads
    from tl_neuron_attr.model.components import Head
    from tl_neuron_attr.vis import View

PICTURED, DRAWN = 100, 8
"""How many prompts the page's pictures average over, and how many heads they show: as many as a screen holds."""


def add_icl(commands: Any) -> None:
    """Add the command to what ``add_subparsers`` returned."""
    icl = commands.add_parser("icl", help="in-context classification: heads, accuracy without them, the two biases")
    icl.add_argument("--data", type=Path, help="CSV or JSONL of texts and classes; default: the bundled model's world")
    icl.add_argument("--text", default="text", help="the column of the texts (text)")
    icl.add_argument("--label", default="label", help="the column of the classes (label)")
    icl.add_argument("--labels", nargs=2, default=("foo", "bar"), metavar="WORD", help="the label words (foo bar)")
    icl.add_argument("--separator", default=" : ", help="between a text and its label (' : ')")
    icl.add_argument("--end", default=" ", help="between a label and the next text (' ')")
    icl.add_argument("--per-label", type=int, default=2, help="demonstrations of each label (2)")
    icl.add_argument("--prompts", type=int, default=300, help="prompts for each of the two steps (300)")
    icl.add_argument("--heads", type=int, help="how many heads are looked for (12, at most a fifth of all)")
    icl.add_argument("--layers", type=int, nargs="+", help="layers looked at; default: all")
    icl.add_argument("--min-attention", type=float, default=0.0, help="least attention to labels a head must pay (0)")
    icl.add_argument("--search", type=int, default=0, help="largest set of heads searched for (0: no search)")
    icl.add_argument(
        "--among", choices=("vocabulary", "labels"), default="vocabulary", help="what an answer competes with"
    )
    icl.add_argument("--a-c", type=float, default=0.03, help="size of the majority correction (0.03)")
    icl.add_argument("--seed", type=int, default=0)
    icl.add_argument("--out", type=Path, help="where a page goes; default: none is written")
    add_model(icl, default="the bundled model")
    icl.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run ``icl``: find heads on one half of the prompts, measure the biases on the other."""
    from tl_neuron_attr import incontext
    from tl_neuron_attr.results.table import Table

    if args.prompts < 2 or args.per_label < 2:
        raise ValueError(
            f"--prompts and --per-label must be at least 2, got {args.prompts} and {args.per_label}: a demonstration "
            "is removed, and its label needs another"
        )
    if args.out is not None:
        ready_page(args.out)
    model = load_model(args)
    prompts = _prompts(model, args)
    found = incontext.in_context_heads(
        model, prompts[: args.prompts], n=args.heads, layers=args.layers, min_attention=args.min_attention,
        search=args.search, among=args.among, seed=args.seed,
    )  # fmt: skip
    print(found)
    report = None
    if found.does_task:
        for frame in (found.zeroed, found.search):
            if not frame.empty:
                print(Table(list(frame.columns), frame.to_numpy().tolist()))
        raised = partial(incontext.majority_correction, model, heads=found.heads, a_c=args.a_c)
        report = incontext.icl_biases(
            model, prompts[args.prompts :], found.heads, majority=raised, among=args.among, seed=args.seed
        )
        print(report)
    if args.out is not None:
        page = _page(model, found, report, prompts[args.prompts :][:PICTURED])
        print(f"wrote {page.save(args.out).resolve()}")
    return 0


def _page(model: Any, found: "InContextHeads", report: "IclBiases | None", prompts: "list[IclPrompt]") -> "View":
    """Return the page: the heads, and what they read, copy and compare in ``prompts`` where there are any."""
    from tl_neuron_attr import incontext, vis

    name = model.cfg.model_name
    if report is None:
        return vis.in_context(heads=found, name=name)
    tokens, mask = incontext.batch_of(model, prompts).inputs()
    _, cache = model.run_with_cache(tokens, **mask)
    heads = found.heads[:DRAWN]
    return vis.in_context(
        heads=found,
        sources=vis.label_sources(cache, prompts, heads),
        differences=vis.label_differences(cache, prompts, heads),
        shift=incontext.attention_shift(model, prompts, heads),
        biases=report,
        name=name,
        **_towers(model, cache, prompts, heads),
    )


def _towers(model: Any, cache: "ActivationCache", prompts: "list[IclPrompt]", heads: "list[Head]") -> dict[str, Any]:
    """Return the sections on scores; say so on stderr and return none where the architecture hides them."""
    from tl_neuron_attr import incontext, vis

    try:
        metric = incontext.learned_metric(model, prompts, heads=heads)
        layer, head = metric.best
        return {
            "metric": metric,
            "split": vis.tower_split(incontext.two_towers(cache, prompts, layer=layer, head=head)),
        }
    except ValueError as error:
        print(f"left out of the page: what the towers compare ({error})", file=sys.stderr)
        return {}


def _prompts(model: Any, args: argparse.Namespace) -> "list[IclPrompt]":
    """Return twice as many prompts as asked for, of the data given or of the bundled world."""
    from tl_neuron_attr import demo, incontext

    counts, k = (args.per_label, args.per_label), 2 * args.per_label
    if args.data is None:
        drawn = demo.in_context(2 * args.prompts, k, counts=counts, labels=tuple(args.labels), seed=args.seed)
        return incontext.from_demo(model, drawn)
    file = incontext.read_examples(args.data, text=args.text, label=args.label)
    for problem in file.problems:
        print(f"left out: {problem}", file=sys.stderr)
    return incontext.icl_prompts(
        model, file.examples, 2 * args.prompts, k=k, labels=args.labels, counts=counts, separator=args.separator,
        end=args.end, seed=args.seed,
    )  # fmt: skip
