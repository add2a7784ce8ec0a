"""Which prediction a command explains: read from its options, said in the first line of what it prints."""

import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tl_neuron_attr.cli.output import note, print_csv, print_json, rows_of, show
from tl_neuron_attr.results.plural import plural
from tl_neuron_attr.results.token_text import in_quotes, prompt_in_quotes

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float, Int
    from torch import Tensor

    from tl_neuron_attr.model.scored_cache import ScoredCache
    from tl_neuron_attr.results.table import PrintsAsTable

_FAR_LIKELIER = 10
"""How many times likelier another spelling must be before the user is warned: less could be the model's own doubt."""
_COLUMNS = ("prompt", "target", "p", "rank", "pos", "contrast", "model")


NamedTarget = str | tuple[int, ...]
"""A target as the user named it: by ``--target`` or by ``--target-id``."""


@dataclass(frozen=True)
class Explained:
    """A prediction as the first line and the columns of a result name it.

    Attributes:
        prompt: The prompt.
        target: The text of the token explained.
        p: Its probability at the position scored.
        rank: 1 for the likeliest token; None for an answer of several tokens.
        pos: The position scored, counted from the start, BOS included.
        contrast: The text of the token compared with, if there is one.
        model: The model's name.
        before: The text up to the position scored.
        likeliest: The likeliest token and its probability.
        tokens: How many tokens target and contrast have: the shorter of two answers is likelier for that alone.
    """

    prompt: str
    target: str
    p: float
    rank: int | None
    pos: int
    contrast: str | None
    model: str
    before: str
    likeliest: tuple[str, float]
    tokens: tuple[int, int] = (1, 1)

    def __str__(self) -> str:
        """Return ``" 8" (p 0.9996, rank 1) after "3 + 5 ="``; the likeliest token too where that is another."""
        of_target, of_contrast = self.tokens
        likelihood = plural(of_target, "token") if self.rank is None else f"rank {self.rank}"
        if self.rank not in (None, 1):
            likelihood += f"; first is {in_quotes(self.likeliest[0])}, p {self.likeliest[1]:.4g}"
        against = "" if self.contrast is None else f" against {in_quotes(self.contrast)}"
        if self.contrast is not None and self.rank is None:
            against += f" ({plural(of_contrast, 'token')})"
        return f"{in_quotes(self.target)} (p {self.p:.4g}, {likelihood}){against} after {prompt_in_quotes(self.before)}"

    def columns(self) -> dict[str, Any]:
        """Return what goes with a result in JSON, and with every row in CSV."""
        named = {name: getattr(self, name) for name in _COLUMNS}
        return {"target_rank" if name == "rank" else name: value for name, value in named.items()}  # rows have a rank


def print_explained(
    explained: Explained, found: "PrintsAsTable", frame: "pd.DataFrame", args: Namespace, *, rows: str
) -> None:
    """Print a result as ``--format`` says: first line and table, CSV, or JSON with its rows by the name ``rows``."""
    if args.format == "json":
        print_json({**explained.columns(), rows: rows_of(frame)})
    elif args.format == "csv":
        print_csv(frame, explained.columns())
    else:
        print(explained)
        show(found)


def prompt_of(args: Namespace) -> str:
    """Return the prompt that the options give.

    Raises:
        click.UsageError: If there is none, or more than one.
        ValueError: If it is empty, or its file is not UTF-8.
        FileNotFoundError: If there is no such file.
    """
    given = {"PROMPT": args.text, "--prompt": args.prompt, "--prompt-file": args.prompt_file}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        found = f"got {' and '.join(named)}" if named else "got none"
        raise click.UsageError(f"give one prompt, as PROMPT, --prompt or --prompt-file; {found}")
    text, source = given[named[0]], named[0]
    if source == "--prompt-file":
        from tl_neuron_attr.results.rows import read_utf8

        text, source = read_utf8(Path(text)).removesuffix("\n"), str(text)
    elif text == "-":
        text, source = sys.stdin.read().removesuffix("\n"), "standard input"
    if not text:
        raise ValueError(f"{source} is empty")
    return text


def load_model(args: Namespace, default: str = "demo") -> Any:
    """Return the model that ``--model`` names, else the default one."""
    import torch

    from tl_neuron_attr.model.loading import load

    return load(args.model or default, device=args.device, dtype=getattr(torch, args.dtype))


def tokens_of_prompt(model: Any, text: str, args: Namespace) -> "Int[Tensor, '1 pos']":
    """Return the token ids of a prompt, the tokenizer's BOS first unless ``--no-bos`` is given.

    With ``--chat`` the prompt is what the user says, in the tokenizer's chat template.

    Raises:
        click.UsageError: If ``--chat`` and ``--no-bos`` are given together.
    """
    from tl_neuron_attr.model.chat import chat
    from tl_neuron_attr.model.tokens import prompt_ids

    if args.chat:
        if args.no_bos:
            raise click.UsageError("--no-bos and --chat exclude each other: the chat template says what comes first")
        return chat(model, [{"role": "user", "content": text}])[None]
    return prompt_ids(model, text, prepend_bos=False if args.no_bos else None)[None]


def target_of(args: Namespace) -> NamedTarget | None:
    """Return what ``--target`` or ``--target-id`` names, None for the model's own prediction.

    Raises:
        click.UsageError: If both are given.
    """
    if args.target is not None and args.target_id is not None:
        raise click.UsageError(f"--target {args.target!r} and --target-id exclude each other: give one of them")
    return args.target_id if args.target is None else args.target


def read_prediction(
    model: Any,
    text: str,
    tokens: "Int[Tensor, '1 pos']",
    logits: "Float[Tensor, '1 pos d_vocab']",
    target: NamedTarget | None,
    args: Namespace,
) -> tuple[int, Explained]:
    """Return the token explained and how to say so; a note where the target's other spelling is far likelier.

    Args:
        model: The model.
        text: The prompt.
        tokens: Its token ids.
        logits: Of the model's run on them.
        target: The token as the user named it, None for the model's own prediction.
        args: The command's options.

    Raises:
        ValueError: If the target or the contrast is not one token.
        IndexError: If there is no position ``--pos``.
    """
    import torch

    from tl_neuron_attr.model.targets import one_each, token_id
    from tl_neuron_attr.numerics.ranked_tokens import ranks_of
    from tl_neuron_attr.results.token_text import token_text

    pos = _from_start(getattr(args, "pos", -1), tokens.shape[1])
    p = logits[0, pos].detach().double().softmax(-1)
    likeliest = int(p.argmax())
    if isinstance(target, tuple):
        token = int(one_each(model, target, 1, "--target-id")[0])
    else:
        token = likeliest if target is None else token_id(model, target, "--target")
    given = getattr(args, "contrast", None)
    contrast = None if given is None else token_text(model, token_id(model, given, "--contrast"))
    if isinstance(target, str):
        _note_spelling(model, p, target, args)
    before = text if pos == tokens.shape[1] - 1 else model.tokenizer.decode(tokens[0, : pos + 1])
    return token, Explained(
        prompt=text,
        target=token_text(model, token),
        p=float(p[token]),
        rank=int(ranks_of(p, torch.tensor(token, device=p.device))),
        pos=pos,
        contrast=contrast,
        model=str(model.cfg.model_name),
        before=before,
        likeliest=(token_text(model, likeliest), float(p[likeliest])),
    )


def is_answer(model: Any, target: NamedTarget | None) -> bool:
    """Return whether a target is an answer of several tokens, all of them known to the model."""
    if isinstance(target, tuple):
        return len(target) > 1
    if target is None or model.tokenizer is None:
        return False
    ids = model.tokenizer.encode(target, add_special_tokens=False)
    return len(ids) > 1 and model.tokenizer.unk_token_id not in ids


def read_answer(
    model: Any, text: str, tokens: "Int[Tensor, '1 pos']", target: NamedTarget, args: Namespace
) -> "tuple[ScoredCache, Explained]":
    """Return the scored cache of an answer of several tokens, and how to say so.

    Raises:
        ValueError: If ``--pos`` is given, as the answer follows the prompt; or as :func:`~tl_neuron_attr.answer`.
    """
    from tl_neuron_attr.model.answer import answer
    from tl_neuron_attr.model.answer_tokens import Answer
    from tl_neuron_attr.results.token_text import token_text

    if getattr(args, "pos", -1) != -1:
        raise ValueError(f"--pos {args.pos} given with several tokens, which follow the prompt: leave it out")
    contrast = getattr(args, "contrast", None)
    whole = Answer.of(model, target, "--target-id" if isinstance(target, tuple) else "--target")
    alone = answer(model, list(tokens), [whole])
    other = None if contrast is None else Answer.of(model, contrast, "--contrast")
    q = alone if other is None else answer(model, list(tokens), [whole], contrast=[other])
    first = alone.log_probs()[0].detach()
    likeliest = int(first.argmax())
    return q, Explained(
        prompt=text,
        target=whole.text,
        p=float(alone.log_prob[0].exp()),
        rank=None,
        pos=tokens.shape[1] - 1,
        contrast=contrast,
        model=str(model.cfg.model_name),
        before=text,
        likeliest=(token_text(model, likeliest), float(first[likeliest].exp())),
        tokens=(len(whole), 1 if other is None else len(other)),
    )


def _from_start(pos: int, length: int) -> int:
    if not -length <= pos < length:
        raise IndexError(f"--pos must lie between {-length} and {length - 1} for this prompt, got {pos}")
    return pos % length


def _note_spelling(model: Any, p: "Float[Tensor, 'd_vocab']", given: str, args: Namespace) -> None:
    """Say so on stderr where the target with its leading space added or taken away is far likelier."""
    other = given.removeprefix(" ") if given.startswith(" ") else f" {given}"
    from tl_neuron_attr.model.tokens import text_ids

    ids = [text_ids(model, text, "--target") for text in (given, other)]
    if any(len(tokens) != 1 for tokens in ids):
        return
    ours, theirs = (float(p[tokens[0]]) for tokens in ids)
    if theirs > _FAR_LIKELIER * ours:
        note(
            args,
            f"note: --target {given!r} has probability {ours:.2g} here and {other!r} {theirs:.2g}: did you mean that?",
        )
