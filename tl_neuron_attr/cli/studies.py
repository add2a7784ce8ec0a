"""The commands ``study`` and ``reproduce``: many prompts at once, and the authors' printed numbers."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from tl_neuron_attr.cli.cna import head
from tl_neuron_attr.cli.explained import load_model
from tl_neuron_attr.cli.icl import PROMPT_DEFAULTS, drawn_prompts
from tl_neuron_attr.cli.options import command, count_option, flag, input_option, model_options, option
from tl_neuron_attr.cli.output import note, ready_folder, show, write_page
from tl_neuron_attr.cli.sharded_study import merge, repair, run_sharded, shard_options

if TYPE_CHECKING:
    from tl_neuron_attr.evaluate import Sizes, StudyPrompt
    from tl_neuron_attr.sweep import Items
    from tl_neuron_attr.sweep.shard_task import ShardTask

_SIZES = {
    "value_attn": "attention value neurons zeroed",
    "value_mlp": "MLP value neurons zeroed",
    "query": "query neurons zeroed",
    "shared": "best neurons of a prompt among which shared ones are counted",
    "heads": "share of all heads zeroed for other types",
}
_OF_SHARDS = ("shard", "stage", "runner", "workers", "cpus", "gpus", "batch_size")
_KNOWLEDGE = "knowledge"
_BIASES = "icl-biases"
_TASKS = (_KNOWLEDGE, "faithfulness", "head-effects", _BIASES)
_OF_BIASES = ("head", "draw")
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
            input_option(
                "--prompts",
                path_type=str,
                show_default="the bundled model's facts",
                help="JSONL, CSV, Parquet or hf://DATASET of prompt, target, type; - reads JSONL from stdin; "
                f"of {_BIASES}, CSV or JSONL of text, label",
            ),
            option(
                "--out",
                show_default="none; needed unless merging",
                help="folder of the results, or with --shards a URL; an unfinished study goes on there",
            ),
            option(
                "--task",
                type=click.Choice(_TASKS),
                default=_KNOWLEDGE,
                help="what is measured; all but knowledge are always in shards",
            ),
            count_option(
                "--zeroed", multiple=True, show_default="10", help="of faithfulness: how many neurons; may be repeated"
            ),
            option(
                "--head",
                type=head,
                multiple=True,
                metavar="HEAD",
                show_default="none",
                help=f"of {_BIASES}, which needs one: a head to correct, L3H2 or 3,2; may be repeated",
            ),
            count_option("--draw", least=2, default=300, help=f"of {_BIASES}: how many prompts are drawn"),
            *shard_options("one study, not cut; one per 256 prompts of another task"),
            option("--stage", show_default="all, in order", help="of knowledge, run one: scores, then cross"),
            option("--seed", type=int, default=0, help="of the random neurons"),
            count_option("--per-type", show_default="all", help="at most so many prompts of each type"),
            *sizes,
            flag("--every-neuron", help=f"of {_KNOWLEDGE}: sum the scores of all neurons too, which costs more"),
            flag("--open", help="open the page in a browser"),
            *model_options(),
        ],
        examples=[
            "tl-neuron-attr study --out study --per-type 5",
            "tl-neuron-attr study --prompts facts.jsonl --model smollm2-135m --out study",
            "tl-neuron-attr study --prompts facts.parquet --model smollm2-135m --out study --shards 40 --runner pool",
            "tl-neuron-attr study --task faithfulness --prompts facts.jsonl --zeroed 10 --zeroed 100 --out faithful",
            "tl-neuron-attr study --task icl-biases --head L3H4 --head L3H7 --draw 1000 --out biases",
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
    if args.action:
        return _finished(args)
    if args.out is None:
        raise click.UsageError("--out is missing: name the folder of the results")
    sharded = args.shards is not None or args.task != _KNOWLEDGE
    _require_options_of_task(args, sharded)
    if not sharded:
        args.out = Path(args.out)
    if "://" not in str(args.out):
        ready_folder(Path(args.out))
    from tl_neuron_attr import evaluate
    from tl_neuron_attr.vis import study as page

    if args.task == _BIASES:
        model = load_model(args)
        return run_sharded(args, model, _icl_items(args, model), _task(args, model))
    prompts = _prompts(args)
    model = load_model(args)
    limited = {kind: group[: args.per_type] for kind, group in prompts.items()}
    if sharded:
        from tl_neuron_attr import sweep

        items = sweep.prompt_items([prompt for group in limited.values() for prompt in group])
        return run_sharded(args, model, items, _task(args, model))
    found = evaluate.knowledge_study(
        model,
        limited,
        sizes=_sizes(args, model),
        out=args.out,
        seed=args.seed,
        every_neuron=args.every_neuron,
        progress=not args.quiet,
    )
    show(found)
    write_page(args, page(found, name=model.cfg.model_name), args.out / "study.html")
    return 0


def _require_options_of_task(args: Namespace, sharded: bool) -> None:
    """Refuse options that the task would ignore.

    Raises:
        click.UsageError: Naming them.
    """
    if not sharded and (given := _typed(_OF_SHARDS)):
        raise click.UsageError(f"{given[0]} is of a study in shards: give --shards too")
    if args.task == "head-effects" and _typed(("seed",)):
        raise click.UsageError("--seed draws random neurons, and --task head-effects has none: leave it out")
    if args.task != "faithfulness" and args.zeroed:
        raise click.UsageError(f"--zeroed is of --task faithfulness, not of {args.task}")
    if args.task != _BIASES and (given := _typed(_OF_BIASES)):
        raise click.UsageError(f"{given[0]} is of --task {_BIASES}, not of {args.task}")
    if args.task == _BIASES and not args.head:
        raise click.UsageError(f"--head is missing: name the heads that --task {_BIASES} corrects; icl finds them")
    if args.task == _BIASES and _typed(("per_type",)):
        raise click.UsageError(f"--per-type is of prompts with types, and --task {_BIASES} has none: leave it out")
    if args.task != _KNOWLEDGE and (given := _typed((*_SIZES, "every_neuron"))):
        raise click.UsageError(f"{given[0]} is of --task {_KNOWLEDGE}, not of {args.task}")


def _typed(names: Sequence[str]) -> list[str]:
    """Return those of the options that stand on the command line, as they are written there."""
    context = click.get_current_context()
    typed = [name for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    return [f"--{name.replace('_', '-')}" for name in typed]


def _task(args: Namespace, model: Any) -> "ShardTask":
    """Return what is measured in shards."""
    from tl_neuron_attr import sweep
    from tl_neuron_attr.model.components import required_heads

    if args.task == "faithfulness":
        counts = tuple(args.zeroed) or (10,)
        return sweep.FaithfulnessTask(counts=counts, seed=args.seed, batch_size=args.batch_size)
    if args.task == "head-effects":
        return sweep.HeadEffectsTask(batch_size=args.batch_size)
    if args.task == _BIASES:
        heads = required_heads(model, args.head)
        return sweep.IclBiasesTask(heads=heads, seed=args.seed, batch_size=args.batch_size)
    return sweep.KnowledgeTask(
        sizes=_sizes(args, model), seed=args.seed, batch_size=args.batch_size, every_neuron=args.every_neuron
    )


def _sizes(args: Namespace, model: Any) -> "Sizes":
    """Return the sizes of a knowledge study: those given, else what fits the model."""
    from tl_neuron_attr import evaluate

    given = {name: getattr(args, name) for name in _SIZES if getattr(args, name) is not None}
    return replace(evaluate.Sizes.fitting(model), **given)


def _finished(args: Namespace) -> int:
    """Run ``study merge DIR`` or ``study repair DIR``."""
    actions = {"merge": merge, "repair": repair}
    if len(args.action) != 2 or args.action[0] not in actions:
        raise click.UsageError(
            f"study takes no {' '.join(args.action)!r}: study merge DIR, study repair DIR, or --out DIR"
        )
    others = [name for name in vars(args) if name not in ("action", "quiet", "open")]
    if given := _typed(others):
        raise click.UsageError(f"study {args.action[0]} reads what it needs from DIR: leave out {given[0]}")
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


def _icl_items(args: Namespace, model: Any) -> "Items":
    """Return the prompts whose biases are measured, drawn as ``icl`` draws them without options."""
    from tl_neuron_attr import sweep

    drawn = Namespace(data=args.prompts, seed=args.seed, quiet=args.quiet, **PROMPT_DEFAULTS)
    return sweep.icl_items(drawn_prompts(model, drawn, args.draw))


def _reproduce(args: Namespace) -> int:
    from tl_neuron_attr.knowledge.reproduce import BOOT_NAMES, reproduce

    model = load_model(args, BOOT_NAMES[args.paper])
    result = reproduce(model, paper=args.paper, tolerance=args.tolerance)
    show(result)
    return 0 if result.agrees else 1
