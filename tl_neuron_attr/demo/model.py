"""Loads the bundled weights as a ``TransformerBridge``."""

import torch
from transformer_lens.model_bridge import TransformerBridge

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.model import loading

FOLDER = loading.BUNDLED


@typechecked
def load_demo(*, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> TransformerBridge:
    """Return the bundled model with its tokenizer, in evaluation mode, without a network: ``tna.load("demo")``.

    A 5-layer Llama of 0.8 million parameters. The tokenizer splits at spaces, one token a word, puts ``<bos>`` first
    and pads on the left, so ``" basketball"`` and ``"basketball"`` are the same token.

    Args:
        device: Where the weights go.
        dtype: Their type; they are stored as float16.

    Examples:
        >>> model = load_demo()
        >>> model.to_string(model("Tim Duncan plays the sport of")[0, -1].argmax())
        'basketball'
    """
    return loading.load("demo", device=device, dtype=dtype)
