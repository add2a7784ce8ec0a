"""Options that several commands share, and what they stand for: a model, a prompt, a prediction, a page."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import torch

from tl_neuron_attr.model.tokens import prompt_ids

DTYPES = ("float32", "float64", "bfloat16", "float16")
_FAR_LIKELIER = 10
"""How many times likelier another spelling must be before the user is warned: less could be the model's own doubt."""


def prediction(logits: torch.Tensor, pos: int) -> int:
    """Return the likeliest next token at a position of the only prompt.

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
    add_prompt(command)
    command.add_argument("--contrast", help="score log p(target) - log p(contrast)")
    command.add_argument("--pos", type=int, default=-1, help="the position scored (-1)")
    command.add_argument("-k", type=int, default=30, help="how many neurons (30)")


def add_prompt(command: argparse.ArgumentParser) -> None:
    """Add the options of a prompt, its target and the model that reads it."""
    command.add_argument("--prompt", required=True, help="the text before the token asked about; - reads it from stdin")
    command.add_argument("--target", help='one token, leading space included: " basketball"; default: the prediction')
    command.add_argument("--no-bos", action="store_true", help="do not put the tokenizer's BOS token first")
    add_model(command, default="the bundled model")


def add_model(command: argparse.ArgumentParser, *, default: str) -> None:
    """Add the options of a model."""
    command.add_argument(
        "--model",
        help="a packaged model (`tl-neuron-attr models` lists them), a .gguf file, a directory, or a name on the hub; "
        f"default: {default}",
    )
    command.add_argument("--dtype", choices=DTYPES, default="float32")
    command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def tokens_of(model: Any, args: argparse.Namespace) -> torch.Tensor:
    """Return the token ids of ``--prompt``, the tokenizer's BOS first unless ``--no-bos`` is given.

    Raises:
        ValueError: If the prompt, or standard input in its place, is empty.
    """
    text, source = args.prompt, "--prompt"
    if text == "-":
        text, source = sys.stdin.read().removesuffix("\n"), "standard input"
    if not text:
        raise ValueError(f"{source} is empty")
    return prompt_ids(model, text, prepend_bos=False if args.no_bos else None)[None]


def warn_of_spelling(model: Any, logits: torch.Tensor, args: argparse.Namespace) -> None:
    """Say so on stderr where the target with its leading space added or taken away is far likelier.

    Raises:
        IndexError: If there is no position ``--pos``.
    """
    given = args.target
    if not given:
        return
    other = given.removeprefix(" ") if given.startswith(" ") else f" {given}"
    ids = [model.tokenizer.encode(text, add_special_tokens=False) for text in (given, other)]
    if any(len(tokens) != 1 for tokens in ids):
        return
    pos = getattr(args, "pos", -1)
    prediction(logits, pos)
    probs = logits[0, pos].detach().double().softmax(-1)
    ours, theirs = (float(probs[tokens[0]]) for tokens in ids)
    if theirs > _FAR_LIKELIER * ours:
        print(
            f"note: --target {given!r} has probability {ours:.2g} here and {other!r} {theirs:.2g}: did you mean that?",
            file=sys.stderr,
        )


def ready_page(path: Path) -> Path:
    """Make the folder of a page and return its path; called before the work, so that no result is lost.

    Raises:
        OSError: If the page cannot be written there.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder and the page needs a file name: {path / 'page.html'}")
    ready_folder(path.parent)
    return path


def ready_folder(path: Path) -> Path:
    """Make a folder of results and return its path.

    Raises:
        OSError: If there is a file of that name on the way, or the folder cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(f"{path} cannot be made a folder: a file has its name or a parent's") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} cannot be written: choose another place")
    return path
