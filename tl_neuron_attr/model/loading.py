"""Load a model by name: the bundled one, a packaged one, a GGUF file, a directory, a name on the hub."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers.utils import logging

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.model.gguf_conversion import converted_file, converted_package, provenance
from tl_neuron_attr.model.model_names import not_loaded, require_model_on_hub
from tl_neuron_attr.model.packaged_models import PACKAGED_MODELS

BUNDLED = Path(__file__).resolve().parents[1] / "demo" / "weights"


@typechecked
def load(
    name: str | Path, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> TransformerBridge:
    """Return a model with its tokenizer, in evaluation mode.

    A GGUF file, packaged or your own, is dequantised by transformers and kept as an ordinary checkpoint in the cache
    directory (``TNA_CACHE``, else the user's): the first load takes up to a minute, later ones seconds. Scores are of
    the dequantised weights, and ``model.cfg.model_name`` says so. Whether texts begin with the BOS token is what the
    file says (``model.cfg.default_prepend_bos``).

    Args:
        name: ``"demo"`` for the bundled model; ``"smollm2-135m"``, ``"gemma3-270m"`` or ``"qwen2.5-coder-0.5b"`` for a
            packaged one; a ``.gguf`` file; a directory with config, weights and tokenizer; or a name on the Hugging
            Face hub.
        device: Where the weights go; a GPU where there is one.
        dtype: Their type; float32.

    Raises:
        OSError: If the model cannot be found, with names that are near: a path that does not exist at once, a name on
            the hub after one short look; if the cache directory cannot be written.
        ValueError: If a GGUF file is damaged, not the published one, or of an architecture transformers cannot read;
            the name is empty, or the device does not exist here.
        ImportError: If a GGUF file needs the package ``gguf``, which is not installed.

    Examples:
        >>> model = load("demo")
        >>> model.to_string(model("Tim Duncan plays the sport of")[0, -1].argmax())
        'basketball'
    """
    _require_device(device)
    if not str(name):
        raise ValueError("name is empty: give a model's name, a directory or a .gguf file")
    folder = _folder_of(str(name))
    local = Path(folder)
    source = provenance(local)
    with _without_progress_bars(local == BUNDLED or source is not None):
        try:
            model = TransformerBridge.boot_transformers(
                folder,
                device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
                dtype=dtype or torch.float32,
            )
        except OSError as error:
            raise OSError(not_loaded(name, str(error).splitlines()[0])) from error
    if local == BUNDLED:
        model.cfg.model_name = "tl_neuron_attr demo"
    elif source is not None:
        model.cfg.model_name = source["name"]
        model.cfg.default_prepend_bos = source["prepend_bos"]  # the bridge puts BOS before every text otherwise
    return model.eval()


def _folder_of(name: str) -> str:
    """Return the directory that a name stands for, or the name itself where it is one of the hub."""
    if name == "demo":
        return str(BUNDLED)
    if name in PACKAGED_MODELS:
        return str(converted_package(name))
    path = Path(name).expanduser()
    if name.lower().endswith(".gguf"):
        return str(converted_file(path))
    if path.is_dir():
        return str(path)
    if path.exists():
        raise NotADirectoryError(f"model {name!r} is a file and no .gguf file: give the directory it lies in")
    require_model_on_hub(name)
    return name


def _require_device(device: str | torch.device | None) -> None:
    """Refuse a device that torch does not know or that this machine does not have."""
    try:
        kind = torch.device(device or "cpu").type
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is no device of torch: write cpu, cuda or cuda:0") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device={str(device)!r} cannot be used: torch finds no CUDA device here; leave it out, or write cpu"
        )


@contextmanager
def _without_progress_bars(hidden: bool) -> Generator[None]:
    """Hide the bars of transformers for a model that loads at once; the user's setting is put back."""
    shown = logging.is_progress_bar_enabled()
    if hidden:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if hidden and shown:
            logging.enable_progress_bar()
