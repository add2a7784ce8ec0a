"""Load a model by name: the bundled one, a directory, or a name on the Hugging Face hub."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers.utils import logging

BUNDLED = Path(__file__).resolve().parents[1] / "demo" / "weights"


def load(name: str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> TransformerBridge:
    """Return a model with its tokenizer, in evaluation mode.

    Args:
        name: ``"demo"`` for the bundled model, a directory with config, weights and tokenizer, or a name on the
            Hugging Face hub.
        device: Where the weights go.
        dtype: Their type.

    Raises:
        OSError: If the model cannot be found, with what can be done.

    Examples:
        >>> model = load("demo")
        >>> model.to_string(model("Tim Duncan plays the sport of")[0, -1].argmax())
        'basketball'
    """
    bundled = name == "demo"
    with _without_progress_bars(bundled):
        try:
            model = TransformerBridge.boot_transformers(str(BUNDLED) if bundled else name, device=device, dtype=dtype)
        except OSError as error:
            raise OSError(
                f"model {name!r} could not be loaded: give a directory with config.json, weights and tokenizer, or a "
                f"name on the Hugging Face hub that this machine can reach ({str(error).splitlines()[0]})"
            ) from error
    if bundled:
        model.cfg.model_name = "tl_neuron_attr demo"
    return model.eval()


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
