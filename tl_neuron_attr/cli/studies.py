"""The commands ``study`` and ``reproduce``: many prompts at once, and the authors' printed numbers."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tl_neuron_attr.cli.explained import load_model
from tl_neuron_attr.cli.options import command, count_option, flag, model_options, option
from tl_neuron_attr.cli.output import note, ready_folder, show, write_page
from tl_neuron_attr.cli.sharded_study import merge, repair, run_sharded, shard_options

if TYPE_CHECKING:
    from tl_neuron_attr.evaluate import StudyPrompt

_SIZES = {
    "value_attn": "attention value neurons zeroed",
    "value_mlp": "MLP value neurons zeroed",
    "query": "query neurons zeroed",
    "shared": "best neurons of a prompt among which shared ones are counted",
    "heads": "share of all heads zeroed for other types",
}
_FITTING = "what fits the model"


def study_command() -> click.Command:
    """Return ``study``."""
    sizes = [
        option(f"--{name.replace('_', '-')}", type=float if name == "heads" else int, show_default=_FITTING, help=what)
        for name, what in _SIZES.items()
    ]
    return command(
        "study",
        _study,
        summary="Find where types of knowledge live, for many prompts.",
        options=[
            click.Argument(["action"], metavar="[merge|repair DIR]", required=False, nargs=-1),
            option(
                "--prompts",
                show_default="the bundled model's facts",
                help="JSONL, CSV, Parquet or hf://DATASET of prompt, target, type; - reads JSONL from stdin",
            ),
            option(
                "--out",
                show_default="none; needed unless merging",
                help="folder of the results, or with --shards a URL; an unfinished study goes on there",
            ),
            *shard_options("one study, not cut"),
            option("--stage", show_default="all, in order", help="run this stage only: scores, then cross"),
            option("--seed", type=int, default=0, help="of the random neurons"),
            count_option("--per-type", show_default="all", help="at most so many prompts of each type"),
            *sizes,
            flag("--open", help="open the page in a browser"),
            *model_options(),
        ],
        examples=[
            "tl-neuron-attr study --out study --per-type 5",
            "tl-neuron-attr study --prompts facts.jsonl --model smollm2-135m --out study",
            "tl-neuron-attr study --prompts facts.parquet --model smollm2-135m --out study --shards 40 --runner pool",
            "tl-neuron-attr study merge study",
        ],
        when_stopped="the prompts done so far are kept in {out}: the same command goes on there",
    )


def reproduce_command() -> click.Command:
    """Return ``reproduce``."""
    return command(
        "reproduce",
        _reproduce,
        summary="Compare the authors' printed numbers with ours.",
        options=[
            click.Argument(["paper"], type=click.Choice(("gpt2-large", "llama-7b"))),
            option("--tolerance", type=float, default=0.02, help="difference that counts as agreement, in nats"),
            *model_options(default="the authors' model, from the hub or its local cache"),
        ],
        examples=[
            "tl-neuron-attr reproduce gpt2-large",
            "tl-neuron-attr reproduce llama-7b --model ~/models/llama-7b --dtype float16 --device cuda",
        ],
    )


def _study(args: Namespace) -> int:
    from tl_neuron_attr import evaluate
    from tl_neuron_attr.vis import study as page

    if args.action:
        return _finished(args)
    if args.out is None:
        raise click.UsageError("--out is missing: name the folder of the results")
    sharded = args.shards is not None
    if not sharded:
        args.out = Path(args.out)
    if "://" not in str(args.out):
        ready_folder(Path(args.out))
    prompts = _prompts(args)
    model = load_model(args)
    limited = {kind: group[: args.per_type] for kind, group in prompts.items()}
    given = {name: getattr(args, name) for name in _SIZES if getattr(args, name) is not None}
    sizes = replace(evaluate.Sizes.fitting(model), **given)
    if sharded:
        from tl_neuron_attr import sweep

        task = sweep.KnowledgeTask(sizes=sizes, seed=args.seed, batch_size=args.batch_size)
        items = sweep.prompt_items([prompt for group in limited.values() for prompt in group])
        return run_sharded(args, model, items, task)
    if args.shard is not None or args.stage is not None or args.runner != "loop":
        raise click.UsageError("--shard, --stage and --runner are of a study in shards: give --shards too")
    found = evaluate.knowledge_study(model, limited, sizes=sizes, out=args.out, progress=not args.quiet)
    show(found)
    write_page(args, page(found, name=model.cfg.model_name), args.out / "study.html")
    return 0


def _finished(args: Namespace) -> int:
    """Run ``study merge DIR`` or ``study repair DIR``."""
    actions = {"merge": merge, "repair": repair}
    if len(args.action) != 2 or args.action[0] not in actions:
        raise click.UsageError(
            f"study takes no {' '.join(args.action)!r}: study merge DIR, study repair DIR, or --out DIR"
        )
    return actions[args.action[0]](args, args.action[1])


def _prompts(args: Namespace) -> "dict[str, list[StudyPrompt]]":
    """Return the prompts by type; notes name the lines left out."""
    from tl_neuron_attr import evaluate

    if args.prompts is None:
        return evaluate.facts()
    file = evaluate.read_prompts(args.prompts)
    for problem in file.problems:
        note(args, f"left out: {problem}")
    return evaluate.by_type(file.prompts)


def _reproduce(args: Namespace) -> int:
    from tl_neuron_attr.knowledge.reproduce import BOOT_NAMES, reproduce

    model = load_model(args, BOOT_NAMES[args.paper])
    result = reproduce(model, paper=args.paper, tolerance=args.tolerance)
    show(result)
    return 0 if result.agrees else 1
