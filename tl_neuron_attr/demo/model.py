"""Loads the bundled weights as a ``TransformerBridge``."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers.utils import logging

FOLDER = Path(__file__).resolve().parent / "weights"


def load(*, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> TransformerBridge:
    """The demo model with its tokenizer, in evaluation mode, from the installed package and without a network.

    A 5-layer Llama of 1.6 million parameters. The tokenizer splits at spaces, one token a word, puts ``<bos>`` first
    and pads on the left, so ``" basketball"`` and ``"basketball"`` are the same token.

    Args:
        device: Where the weights go.
        dtype: Their type; they are stored as float16.

    Examples:
        >>> model = load()
        >>> model.to_string(model("Tim Duncan plays the sport of")[0, -1].argmax())
        'basketball'
    """
    with _without_progress_bars():
        model = TransformerBridge.boot_transformers(str(FOLDER), device=device, dtype=dtype)
    model.cfg.model_name = "tl_neuron_attr demo"
    model.eval()
    return model


@contextmanager
def _without_progress_bars() -> Generator[None]:
    """No bar for a model that loads at once; the user's setting is put back."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
