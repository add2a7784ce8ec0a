"""Options that several commands share, and what they stand for: a model, a prompt, a prediction."""

import argparse
from typing import Any

import torch

from tl_neuron_attr.model.tokens import prompt_ids

DTYPES = ("float32", "float64", "bfloat16", "float16")


def prediction(logits: torch.Tensor, pos: int) -> int:
    """The likeliest next token at a position of the only prompt.

    Raises:
        IndexError: If there is no such position.
    """
    length = logits.shape[1]
    if not -length <= pos < length:
        raise IndexError(f"--pos must lie between {-length} and {length - 1} for this prompt, got {pos}")
    return int(logits[0, pos].argmax())


def load_model(args: argparse.Namespace, default: str = "demo") -> Any:
    """Return the model that ``--model`` names, else the default one."""
    from tl_neuron_attr.model.loading import load

    return load(args.model or default, device=args.device, dtype=getattr(torch, args.dtype))


def add_prediction(command: argparse.ArgumentParser) -> None:
    """Add the options that say which prediction is explained."""
    command.add_argument("--prompt", required=True, help="the text before the token asked about")
    command.add_argument("--target", help='one token, leading space included: " basketball"; default: the prediction')
    command.add_argument("--contrast", help="score log p(target) - log p(contrast)")
    command.add_argument("--pos", type=int, default=-1, help="the position scored (-1)")
    command.add_argument("-k", type=int, default=30, help="how many neurons (30)")
    command.add_argument("--no-bos", action="store_true", help="do not put the tokenizer's BOS token first")
    add_model(command, default="the bundled model")


def add_model(command: argparse.ArgumentParser, *, default: str) -> None:
    """Add the options of a model."""
    command.add_argument("--model", help=f"name or directory, as boot_transformers takes it; default: {default}")
    command.add_argument("--dtype", choices=DTYPES, default="float32")
    command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def tokens_of(model: Any, args: argparse.Namespace) -> torch.Tensor:
    """Return the token ids of ``--prompt``, the tokenizer's BOS first unless ``--no-bos`` is given."""
    if not args.prompt:
        raise ValueError("--prompt is empty")
    return prompt_ids(model, args.prompt, prepend_bos=False if args.no_bos else None)[None]
