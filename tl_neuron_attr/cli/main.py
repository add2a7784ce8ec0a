"""The command ``tl-neuron-attr``: report pages, tables of neurons and heads, the papers' numbers compared."""

import io
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import click

from tl_neuron_attr import __version__
from tl_neuron_attr.cli.catalogue import catalogue_command
from tl_neuron_attr.cli.cna import cna_command, heads_command
from tl_neuron_attr.cli.icl import icl_command
from tl_neuron_attr.cli.models import completion_command, models_command
from tl_neuron_attr.cli.options import CONTEXT, PROGRAM
from tl_neuron_attr.cli.predictions import neurons_command, query_command, report_command, trace_command
from tl_neuron_attr.cli.studies import reproduce_command, study_command

_EPILOG = """\b
Examples:
  tl-neuron-attr report "Tim Duncan plays the sport of" --target " basketball"
  tl-neuron-attr neurons "3 + 5 =" -k 10 --format csv
  tl-neuron-attr COMMAND --help

Exit codes: 0 done, 1 something was wrong with the input or the numbers disagree, 2 the command line makes no sense, 130
stopped by Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Whatever goes wrong is one line on stderr; ``--debug`` shows the traceback instead.
    """
    _accept_any_text()
    try:
        return commands().main(argv, PROGRAM, standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code


def commands() -> click.Group:
    """Return the command line's grammar."""
    made = (
        report_command(), neurons_command(), query_command(), trace_command(), heads_command(), cna_command(),
        icl_command(), study_command(), catalogue_command(), reproduce_command(), models_command(),
        completion_command(),
    )  # fmt: skip
    top = _InOrder(
        PROGRAM,
        commands={each.name or "": each for each in made},
        help="Which neurons made the model say that, and what switched them on.",
        epilog=_EPILOG,
        context_settings=CONTEXT,
        params=[click.Option(["--debug"], is_flag=True, help="show the traceback of an error")],
        no_args_is_help=False,
    )
    return click.version_option(__version__, message=_versions())(top)


class _InOrder(click.Group):
    """Lists its commands in the order in which people need them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def _versions() -> str:
    """Return this package's version and those that its numbers depend on, for a report of a fault."""
    found: list[str] = []
    for name in ("torch", "transformer_lens", "transformers"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} is missing")
    return f"{PROGRAM} {__version__} ({', '.join(found)})"


def _accept_any_text() -> None:
    """Print what the terminal's encoding lacks as escapes: a token's text can be in any script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
