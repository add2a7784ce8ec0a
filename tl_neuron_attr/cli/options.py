"""Options that several commands share, and how a command is made; nothing here imports torch at its top.

Help and completion come at once that way: a command imports what it needs when it runs, and after it has checked
where its results go.
"""

import re
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

PROGRAM = "tl-neuron-attr"
_DTYPES = ("float32", "float64", "bfloat16", "float16")
CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""What every command's help has in common; wider lines are hard to read."""
_FORMATS = ("table", "csv", "json")
_INTERRUPTED = 130
"""What a shell reports for a program that Ctrl-C ended."""
_BUNDLED = "the bundled model"


def command(
    name: str,
    run: Callable[[Namespace], int],
    *,
    summary: str,
    options: Sequence[click.Parameter],
    examples: Sequence[str],
    when_stopped: str = "nothing was written; run it again",
) -> click.Command:
    """Return a command that passes its options to ``run`` as a namespace and shows whatever goes wrong as one line.

    Args:
        name: What the user types.
        run: Does the work and returns the exit code.
        summary: What the command does: its line in the list of commands, and the first of its help.
        options: Beside ``--quiet``, which every command has.
        examples: Lines to copy, at least two.
        when_stopped: What is left after Ctrl-C, and how to go on.
    """
    parameters = [*options, flag("-q", "--quiet", help="print results only: no notes, no progress, no 'wrote ...'")]

    def callback(**given: Any) -> int:
        return _one_line_errors(run, Namespace(**given), parameters, when_stopped)

    lines = "\n".join(f"  {line}" for line in examples)
    return click.Command(
        name,
        params=parameters,
        callback=callback,
        help=summary,
        epilog=f"\b\nExamples:\n{lines}",
        context_settings=CONTEXT,
    )


def option(*names: str, **settings: Any) -> click.Option:
    """Return an option whose help shows its default."""
    return click.Option(names, show_default=settings.pop("show_default", True), **settings)


def flag(*names: str, **settings: Any) -> click.Option:
    """Return an option that is given or not, and takes no value."""
    return click.Option(names, is_flag=True, show_default=False, **settings)


def count_option(*names: str, least: int = 1, **settings: Any) -> click.Option:
    """Return an option that takes a number of things."""
    return option(*names, type=click.IntRange(min=least), **settings)


def path_option(*names: str, **settings: Any) -> click.Option:
    """Return an option that takes a path."""
    return option(*names, type=click.Path(path_type=Path), **settings)


def input_option(*names: str, path_type: type[str] | type[Path] = Path, **settings: Any) -> click.Option:
    """Return an option that names what is read: refused before anything is loaded where no file is."""
    return option(*names, type=InputFile(path_type=path_type), **settings)


class InputFile(click.Path):
    """The path of a file that is there, ``-`` for standard input, or a URL."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path as the type it was asked for."""
        if str(value) != "-" and "://" not in str(value) and not Path(value).exists():
            self.fail(f"no file at {value}", param, ctx)
        return super().convert(value, param, ctx)


def page_option(default: str | None = None) -> list[click.Parameter]:
    """Return the options of a page: where it goes, and whether a browser opens it."""
    where = "no page is written" if default is None else True
    return [
        path_option("--html", default=default, show_default=where, help="file of the page; missing folders are made"),
        flag("--open", help="open the page in a browser"),
    ]


def format_option() -> click.Option:
    """Return the option that says how results are printed."""
    return option("--format", type=click.Choice(_FORMATS), default="table", help="how the result is printed")


def model_options(default: str = _BUNDLED) -> list[click.Parameter]:
    """Return the options of a model."""
    return [
        option(
            "--model",
            show_default=default,
            shell_complete=_model_names,
            help="a packaged model (`tl-neuron-attr models` lists them), a .gguf file, a directory, or a name on the "
            "Hugging Face hub",
        ),
        option("--dtype", type=click.Choice(_DTYPES), default="float32", help="type of the weights"),
        option("--device", show_default="cuda where there is one, else cpu", help="where the model runs"),
    ]


def prompt_options() -> list[click.Parameter]:
    """Return the prompt, its target, the position scored, and the model."""
    return [
        click.Argument(["text"], metavar="[PROMPT]", required=False),
        option("--prompt", show_default=False, help="the prompt, if not given as an argument; - reads it from stdin"),
        input_option("--prompt-file", show_default=False, help="a UTF-8 file that holds the prompt"),
        option(
            "--target",
            show_default="the model's own prediction",
            help='the token or answer explained, with its leading space where the tokenizer marks one: " basketball"',
        ),
        option(
            "--target-id",
            type=_token_ids,
            metavar="ID[,ID...]",
            show_default="none",
            help="the target by token ids instead, which no spelling can mistake: 1234, or 1234,567 for an answer",
        ),
        flag("--no-bos", help="do not put the tokenizer's BOS token first"),
        flag("--chat", help="the prompt is what the user says, in the tokenizer's chat template"),
        *model_options(),
    ]


def _token_ids(text: str) -> tuple[int, ...]:
    """Return token ids as the user writes them: ``1234`` or ``1234,567``.

    Raises:
        click.BadParameter: If they are none.

    Examples:
        >>> _token_ids("1234,567")
        (1234, 567)
    """
    ids = text.split(",")
    if not all(re.fullmatch(r"\s*[0-9]{1,9}\s*", one, re.ASCII) for one in ids):
        raise click.BadParameter(f"{text!r} is no list of token ids: write 1234, or 1234,567")
    return tuple(map(int, ids))


def prediction_options() -> list[click.Parameter]:
    """Return the options that say which prediction is explained, and by how many neurons."""
    return [
        *prompt_options(),
        option("--contrast", show_default="none", help="score log p(target) - log p(contrast)"),
        position_option(),
        count_option("-k", default=30, help="how many neurons"),
    ]


def position_option() -> click.Option:
    """Return the option that says which position is scored."""
    return option("--pos", type=int, default=-1, help="the position scored; negative ones count from the end")


def in_shell_words(message: str, parameters: Sequence[click.Parameter]) -> str:
    """Return a message of the library with its arguments named as options: one line.

    Examples:
        >>> in_shell_words("pos is on padding: pass pos=, the last real one", [position_option()])
        '--pos is on padding: pass --pos, the last real one'
    """
    text = " ".join(message.split())
    for parameter in parameters:
        if isinstance(parameter, click.Option) and parameter.name:
            name, shown = re.escape(parameter.name), parameter.opts[-1]
            text = re.sub(rf"(?<![\w-]){name}=(?=[\s,;.:)]|$)", shown, text)
            text = re.sub(rf"(?<![\w-]){name}(?==\S)", shown, text)
            text = re.sub(rf"(?:(?<=^)|(?<=: )|(?<=; )){name}(?= (?:must|is|lies|has)\b)", shown, text)
    return text


def _one_line_errors(
    run: Callable[[Namespace], int], args: Namespace, parameters: Sequence[click.Parameter], when_stopped: str
) -> int:
    """Run a command; with ``--debug`` the errors themselves are raised."""
    debug = click.get_current_context().find_root().params.get("debug", False)
    try:
        code = run(args)
        sys.stdout.flush()  # a reader that left is noticed here, not when Python exits
        return code
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped; {when_stopped.format(**vars(args))}", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough: `| head`
        _drop_output()
        return 0
    except click.ClickException:
        raise
    except Exception as error:
        if debug:
            raise
        message = in_shell_words(str(error), parameters)
        print(f"{PROGRAM}: {type(error).__name__}: {message}", file=sys.stderr)
        return 1


def _drop_output() -> None:
    """Send what is still in the buffer nowhere: Python flushes it at its exit, and would complain."""
    import os

    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # not a real file: a test's
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  # Python flushes it at its exit


def _model_names(_: click.Context, __: click.Parameter, incomplete: str) -> list[Any]:
    """Return the short names of models for a shell that completes ``--model``, then files."""
    from click.shell_completion import CompletionItem

    from tl_neuron_attr.model.packaged_models import PACKAGED_MODELS

    names = [CompletionItem(name) for name in ("demo", *PACKAGED_MODELS) if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]
