"""The command ``tl-neuron-attr icl``: in-context heads and the two biases, as tables and one page."""

from argparse import Namespace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from tl_neuron_attr.cli.explained import load_model
from tl_neuron_attr.cli.options import command, count_option, flag, input_option, model_options, option, path_option
from tl_neuron_attr.cli.output import note, ready_page, show, write_page

if TYPE_CHECKING:
    from transformer_lens import ActivationCache

    from tl_neuron_attr.incontext import IclBiases, IclPrompt, InContextHeads
    from tl_neuron_attr.model.components import Head
    from tl_neuron_attr.vis import View

PICTURED, DRAWN = 100, 8
"""How many prompts the page's pictures average over, and how many heads they show: as many as a screen holds."""

PROMPT_DEFAULTS = {
    "text": "text",
    "label": "label",
    "labels": ("foo", "bar"),
    "classes": None,
    "separator": " : ",
    "end": " ",
    "per_label": 2,
}
"""What the prompts are made of unless the options say otherwise."""


def icl_command() -> click.Command:
    """Return ``icl``."""
    return command(
        "icl",
        _icl,
        summary="Find in-context heads and measure the two biases.",
        options=[
            input_option("--data", show_default="the bundled model's world", help="CSV or JSONL of texts and classes"),
            option("--text", default=PROMPT_DEFAULTS["text"], help="the column of the texts"),
            option("--label", default=PROMPT_DEFAULTS["label"], help="the column of the classes"),
            option("--labels", nargs=2, default=PROMPT_DEFAULTS["labels"], metavar="WORD WORD", help="the label words"),
            option(
                "--classes",
                nargs=2,
                metavar="CLASS CLASS",
                show_default="drawn anew for every prompt",
                help="the class of --data that each label word stands for",
            ),
            option("--separator", default=PROMPT_DEFAULTS["separator"], help="between a text and its label"),
            option(
                "--end",
                default=PROMPT_DEFAULTS["end"],
                help="between a label and the next text; $'\\n' is a line break",
            ),
            count_option(
                "--per-label",
                least=2,
                default=PROMPT_DEFAULTS["per_label"],
                help="demonstrations of each label; one is removed",
            ),
            count_option("--prompts", least=2, default=300, help="prompts for each of the two steps"),
            count_option("--heads", show_default="12, at most a fifth of all", help="how many heads to find"),
            flag("--screen", help="zero only heads with good static scores, four times as many as are found"),
            count_option("--batch-size", show_default="256", help="most prompts in one forward pass, copies counted"),
            option("--layers", type=int, multiple=True, show_default="all", help="a layer looked at; may be repeated"),
            option("--min-attention", type=float, default=0.0, help="least attention to labels a head must pay"),
            count_option("--search", least=0, default=0, help="largest set of heads searched for; 0 for no search"),
            option(
                "--among",
                type=click.Choice(("vocabulary", "labels")),
                default="vocabulary",
                help="what an answer competes with",
            ),
            option("--a-c", type=float, default=0.03, help="size of the majority correction"),
            option("--seed", type=int, default=0, help="draws the prompts and the random heads"),
            path_option("--out", show_default="no page is written", help="file of the page; missing folders are made"),
            flag("--open", help="open the page in a browser"),
            *model_options(),
        ],
        examples=[
            "tl-neuron-attr icl --prompts 100 --out icl.html",
            "tl-neuron-attr icl --data reviews.csv --text review --label sentiment --model gpt2-large --out icl.html",
        ],
    )


def _icl(args: Namespace) -> int:
    """Find heads on one half of the prompts, measure the biases on the other."""
    if args.classes and args.data is None:
        raise click.UsageError("--classes names classes of --data, which is missing")
    ready_page(args.out)
    from tl_neuron_attr import incontext
    from tl_neuron_attr.results.table import Table

    model = load_model(args)
    sizes = {} if args.batch_size is None else {"batch_size": args.batch_size}
    prompts = drawn_prompts(model, args, 2 * args.prompts)
    found = incontext.in_context_heads(
        model, prompts[: args.prompts], n=args.heads, layers=list(args.layers) or None,
        min_attention=args.min_attention, search=args.search, among=args.among, seed=args.seed,
        screen=args.screen, progress=not args.quiet, **sizes,
    )  # fmt: skip
    show(found)
    report = None
    if found.does_task:
        for frame in (found.zeroed, found.search):
            if not frame.empty:
                show(Table(list(frame.columns), frame.to_numpy().tolist()))
        raised = partial(incontext.majority_correction, model, heads=found.heads, a_c=args.a_c)
        report = incontext.icl_biases(
            model, prompts[args.prompts :], found.heads, majority=raised, among=args.among, seed=args.seed,
            progress=not args.quiet, **sizes,
        )  # fmt: skip
        show(report)
    if args.out is not None:
        write_page(args, _page(model, found, report, prompts[args.prompts :][:PICTURED], args), args.out)
    return 0


def _page(
    model: Any, found: "InContextHeads", report: "IclBiases | None", prompts: "list[IclPrompt]", args: Namespace
) -> "View":
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
        **_towers(model, cache, prompts, heads, args),
    )


def _towers(
    model: Any, cache: "ActivationCache", prompts: "list[IclPrompt]", heads: "list[Head]", args: Namespace
) -> dict[str, Any]:
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
        note(args, f"left out of the page: what the towers compare ({error})")
        return {}


def drawn_prompts(model: Any, args: Namespace, n: int) -> "list[IclPrompt]":
    """Return ``n`` prompts of the data given or of the bundled world."""
    from tl_neuron_attr import demo, incontext

    counts, k = (args.per_label, args.per_label), 2 * args.per_label
    if args.data is None:
        drawn = demo.in_context(n, k, counts=counts, labels=tuple(args.labels), seed=args.seed)
        return incontext.from_demo(model, drawn)
    file = incontext.read_examples(args.data, text=args.text, label=args.label)
    for problem in file.problems:
        note(args, f"left out: {problem}")
    return incontext.icl_prompts(
        model, file.examples, n, k=k, labels=args.labels, classes=args.classes or None, counts=counts,
        separator=args.separator, end=args.end, seed=args.seed,
    )  # fmt: skip
