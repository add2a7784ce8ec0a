"""The commands on one prediction: ``report``, ``neurons``, ``query`` and ``trace``."""

from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from tl_neuron_attr.cli.explained import (
    Explained,
    NamedTarget,
    is_answer,
    load_model,
    print_explained,
    prompt_of,
    read_answer,
    read_prediction,
    target_of,
    tokens_of_prompt,
)
from tl_neuron_attr.cli.options import (
    command,
    count_option,
    flag,
    format_option,
    input_option,
    option,
    page_option,
    prediction_options,
)
from tl_neuron_attr.cli.output import print_csv, print_json, ready_page, rows_of, show, write_page
from tl_neuron_attr.cli.prompt_files import prompts_of, with_progress

if TYPE_CHECKING:
    import pandas as pd
    from transformer_lens import ActivationCache

    from tl_neuron_attr.model.scored_cache import ScoredCache
    from tl_neuron_attr.results.neurons import Neurons
    from tl_neuron_attr.results.table import Table

_SITES = click.Choice(("mlp", "attn", "both"))


def report_command() -> click.Command:
    """Return ``report``."""
    return command(
        "report",
        _report,
        summary="Write one HTML page on a prediction.",
        options=[
            *prediction_options(),
            _prompts_option(),
            count_option("--heads", default=8, help="how many heads are shown in detail"),
            count_option(
                "--max-new-tokens",
                show_default="one prediction is explained",
                help="explain each token of the model's own continuation instead, so many at the most",
            ),
            _catalogue_option(),
            *page_option("report.html"),
        ],
        examples=[
            'tl-neuron-attr report "Tim Duncan plays the sport of" --target " basketball"',
            'tl-neuron-attr report "The capital of France is" --model gemma3-270m --html paris.html --open',
            'tl-neuron-attr report "The Empire State Building is in" --target " New York City" --model gemma3-270m',
            'tl-neuron-attr report "The Empire State Building is in" --max-new-tokens 8 --model gemma3-270m',
        ],
    )


def neurons_command() -> click.Command:
    """Return ``neurons``."""
    return command(
        "neurons",
        _neurons,
        summary="Print the neurons that raise the target most: value neurons.",
        options=[
            *prediction_options(),
            _prompts_option(),
            option("--site", type=_SITES, default="both", help="which neurons are searched"),
            flag("--suppressing", help="the neurons that lower the target most"),
            _catalogue_option(),
            format_option(),
        ],
        examples=[
            'tl-neuron-attr neurons "3 + 5 =" -k 10 --format csv',
            "tl-neuron-attr neurons --prompts facts.jsonl --model smollm2-135m --format json > neurons.json",
        ],
    )


def query_command() -> click.Command:
    """Return ``query``."""
    return command(
        "query",
        _query,
        summary="Print the neurons that switched those on: query neurons.",
        options=[
            *prediction_options(),
            count_option("--value", default=30, help="how many value neurons are followed"),
            option("--site", type=_SITES, default="both", help="which query neurons are searched"),
            _key_option(),
            format_option(),
        ],
        examples=[
            'tl-neuron-attr query "Tim Duncan plays the sport of" --target " basketball"',
            'tl-neuron-attr query "3 + 5 =" --value 10 --site mlp --format csv',
        ],
    )


def trace_command() -> click.Command:
    """Return ``trace``."""
    return command(
        "trace",
        _trace,
        summary="Print what passes from the tokens to the answer.",
        options=[
            *prediction_options(),
            count_option("--heads", default=12, help="how many heads, those through which most passes"),
            count_option("--queries", default=20, help="how many query neurons between tokens and heads"),
            _key_option(),
            format_option(),
            *page_option(),
        ],
        examples=[
            'tl-neuron-attr trace "Tim Duncan plays the sport of" --html flow.html',
            'tl-neuron-attr trace "The capital of France is" --target " Paris" --model smollm2-135m --format json',
        ],
    )


def _catalogue_option() -> click.Option:
    return option(
        "--catalogue",
        show_default="none",
        help="folder of `tl-neuron-attr catalogue`: adds where in its corpus each MLP neuron was strongest",
    )


def _prompts_option() -> click.Option:
    return input_option(
        "--prompts",
        show_default=False,
        help="a JSONL or CSV file with the field prompt, and target where it is not the model's own prediction",
    )


def _key_option() -> click.Option:
    keys = click.Choice(("both", "gate", "up"))
    return option("--key", type=keys, default="both", help="which of a gated MLP neuron's two keys is followed")


@dataclass(frozen=True)
class _Scored:
    """A prompt that was run, and what is explained of it."""

    cache: "ActivationCache"
    scored: "ScoredCache"
    explained: Explained


def _run(model: Any, text: str, target: NamedTarget | None, args: Namespace) -> _Scored:
    from tl_neuron_attr.model.scored import scored

    tokens = tokens_of_prompt(model, text, args)
    if target is not None and (is_answer(model, target) or is_answer(model, args.contrast)):
        q, explained = read_answer(model, text, tokens, target, args)
        return _Scored(q.stream.cache, q, explained)
    logits, cache = model.run_with_cache(tokens)
    token, explained = read_prediction(model, text, tokens, logits, target, args)
    return _Scored(cache, scored(cache, token, pos=args.pos, contrast=args.contrast), explained)


def _report(args: Namespace) -> int:
    if args.max_new_tokens is not None:
        return _continuation(args)
    ready_page(args.html)
    from tl_neuron_attr.vis import report

    texts = list(prompts_of(args))
    model = load_model(args)
    catalogue = _read_catalogue(model, args)

    def each() -> "Iterator[ScoredCache]":
        for text, target in texts:
            run = _run(model, text, target, args)
            print(run.explained)
            yield run.scored

    of = next(each()) if args.prompts is None else each()
    write_page(args, report(of, k=args.k, heads=args.heads, catalogue=catalogue, progress=not args.quiet))
    return 0


def _continuation(args: Namespace) -> int:
    """Write the page of what the model itself says.

    Raises:
        click.UsageError: If a target, a contrast, a position, a file of prompts or a catalogue is given too.
    """
    given = {"--target": args.target, "--target-id": args.target_id, "--contrast": args.contrast}
    given |= {"--prompts": args.prompts, "--catalogue": args.catalogue}
    named = [name for name, value in given.items() if value is not None]
    if named or args.pos != -1:
        raise click.UsageError(
            f"--max-new-tokens explains what the model itself says: leave out {' and '.join(named) or '--pos'}"
        )
    text = prompt_of(args)
    ready_page(args.html)
    from tl_neuron_attr.knowledge.explain import explain
    from tl_neuron_attr.vis.explanation import explanation

    model = load_model(args)
    ids = tokens_of_prompt(model, text, args)[0]
    found = replace(explain(model, ids, max_new_tokens=args.max_new_tokens, k=args.k), prompt=text)
    show(found)
    write_page(args, explanation(found, name=str(model.cfg.model_name)))
    return 0


def _neurons(args: Namespace) -> int:
    from tl_neuron_attr.knowledge.value_neurons import value_neurons

    texts = list(prompts_of(args))
    model = load_model(args)
    catalogue = _read_catalogue(model, args)
    found: list[tuple[Explained, Neurons]] = []
    for text, target in with_progress(texts, args):
        run = _run(model, text, target, args)
        value = value_neurons(run.scored, k=args.k, sites=_sites(args), largest=not args.suppressing)[0]
        found.append((run.explained, value))
    _print_neurons(found, args, catalogue)
    return 0


def _read_catalogue(model: Any, args: Namespace) -> "Mapping[str, pd.DataFrame] | None":
    from tl_neuron_attr.sweep import read_catalogue

    return None if args.catalogue is None else read_catalogue(args.catalogue, model)


def _query(args: Namespace) -> int:
    from tl_neuron_attr.knowledge.query_neurons import query_neurons
    from tl_neuron_attr.knowledge.value_neurons import value_neurons

    run = _run(load_model(args), prompt_of(args), target_of(args), args)
    value = value_neurons(run.scored, k=args.value, text=False)
    found = query_neurons(run.scored, value, args.k, sites=_sites(args), key=args.key)[0]
    _print_neurons([(run.explained, found)], args)
    return 0


def _trace(args: Namespace) -> int:
    text = prompt_of(args)
    ready_page(args.html)
    from tl_neuron_attr.knowledge.flow import trace

    run = _run(load_model(args), text, target_of(args), args)
    flow = trace(run.scored, k=args.k, heads=args.heads, queries=args.queries, key=args.key)
    print_explained(run.explained, flow, flow.to_frame(), args, rows="edges")
    if args.html is not None:
        from tl_neuron_attr.vis import flow as picture
        from tl_neuron_attr.vis.view import titled

        write_page(args, titled(picture(flow), f"From the tokens to {run.explained.target}", str(run.explained)))
    return 0


def _print_neurons(
    found: "list[tuple[Explained, Neurons]]", args: Namespace, catalogue: "Mapping[str, pd.DataFrame] | None" = None
) -> None:
    """Print neurons of one prompt, or of each of a file; with a catalogue, where each was strongest in a corpus."""
    frames = [neurons.to_frame(catalogue=catalogue) for _, neurons in found]
    if args.format == "json":
        whole = [
            {**explained.columns(), "neurons": rows_of(frame)}
            for (explained, _), frame in zip(found, frames, strict=True)
        ]
        print_json(whole if getattr(args, "prompts", None) else whole[0])
    elif args.format == "csv":
        for i, ((explained, _), frame) in enumerate(zip(found, frames, strict=True)):
            print_csv(frame, explained.columns(), header=i == 0)
    else:
        for i, (explained, neurons) in enumerate(found):
            print(f"\n{explained}" if i else explained)
            table = neurons.table() if catalogue is None else _with_contexts(neurons.table(), frames[i])
            show(table, caption="scores in nats")  # the line before says of what


def _with_contexts(table: "Table", frame: "pd.DataFrame") -> "Table":
    from tl_neuron_attr.results.token_text import printable

    contexts = [printable(text) for text in frame["context"].fillna("")]
    rows = [(*row, context) for row, context in zip(table.rows, contexts, strict=True)]
    return replace(table, headings=(*table.headings, "strongest in the corpus"), rows=rows)


def _sites(args: Namespace) -> Any:
    return ("mlp", "attn") if args.site == "both" else (args.site,)
