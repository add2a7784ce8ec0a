"""Prompts given as text or as token ids."""

import warnings
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import AutoTokenizer

from tl_neuron_attr.model import dimensions
from tl_neuron_attr.results.token_text import encodable

Tokens = str | Int[Tensor, "pos"] | Int[Tensor, "batch pos"]
"""A prompt's text, its token ids, or those of a batch of prompts of one length."""

_PREFIXES: WeakKeyDictionary[Any, list[int]] = WeakKeyDictionary()
"""By tokenizer, what its files put before a text: they are read once."""


def prompt_ids(model: Any, text: str, *, prepend_bos: bool | None = None) -> Int[Tensor, "pos"]:
    """Return a prompt's token ids, its BOS first where the tokenizer's own files put one.

    A bridge puts a BOS before every text, also where the model was trained without one (``<|im_start|>`` for SmolLM2).
    A BOS that ``text`` itself begins with, as a chat template writes it, is not put there a second time.

    Args:
        model: The model.
        text: The prompt.
        prepend_bos: Whether BOS comes first; by default as ``tokenizer(text)`` of the model's tokenizer does, or none
            where ``model.cfg.default_prepend_bos`` is False.

    Raises:
        ValueError: If the prompt is empty or longer than the model's context, or as :func:`text_ids`.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> model.to_string(prompt_ids(model, "3 + 5 ="))
        '<bos> 3 + 5 ='
    """
    if not text:
        raise ValueError("prompt is empty: give at least one word")
    ids = text_ids(model, text, "prompt")
    prefix = bos_prefix(model, prepend_bos=prepend_bos)
    if ids[: len(prefix)] != prefix:
        ids = prefix + ids
    context = getattr(model.cfg, "n_ctx", None)
    if context and len(ids) > context:
        raise ValueError(f"the prompt is {len(ids)} tokens, the model's context {context}: {text[:60]!r}")
    return torch.tensor(ids, device=dimensions.device_of(model))


def text_ids(model: Any, text: str, name: str) -> list[int]:
    """Return the token ids of a text, without BOS.

    Args:
        model: The model.
        text: The text.
        name: What errors call it.

    Raises:
        ValueError: If the model has no tokenizer, or the text holds a lone surrogate, which no encoding has.
    """
    if model.tokenizer is None:
        raise ValueError(f"{name}={text[:40]!r} is text and the model has no tokenizer: pass token ids")
    if encodable(text) != text:
        raise ValueError(f"{name}={text[:40]!r} holds a lone surrogate, which is no character: take it out")
    return model.tokenizer.encode(text, add_special_tokens=False)


def bos_prefix(model: Any, *, prepend_bos: bool | None = None) -> list[int]:
    """Return what comes before a prompt, a BOS or nothing; see :func:`prompt_ids`."""
    bos = model.tokenizer.bos_token_id
    if prepend_bos is None and getattr(model.cfg, "default_prepend_bos", True):
        return _prefix(model.tokenizer)
    return [bos] if prepend_bos and bos is not None else []


def _prefix(tokenizer: Any) -> list[int]:
    """Return what the tokenizer's own files put before a text; a bridge changes the tokenizer it holds."""
    if tokenizer not in _PREFIXES:
        saved = _as_saved(tokenizer)
        bare, whole = (saved.encode("a", add_special_tokens=special) for special in (False, True))
        _PREFIXES[tokenizer] = whole[: whole.index(bare[0])] if bare and bare[0] in whole else []
    return _PREFIXES[tokenizer]


def _as_saved(tokenizer: Any) -> Any:
    """Return the tokenizer as its files say; the one in memory where they are gone."""
    try:
        return AutoTokenizer.from_pretrained(tokenizer.name_or_path, local_files_only=True)
    except (OSError, ValueError):
        return tokenizer


def token_batch(model: Any, tokens: Tokens) -> tuple[Int[Tensor, "batch pos"], bool]:
    """Return token ids, and whether the user thinks of a batch.

    Warns:
        UserWarning: If every prompt begins with two BOS tokens.

    Raises:
        ValueError: If there is no token.
    """
    if isinstance(tokens, str):
        return prompt_ids(model, tokens)[None], False
    if tokens.numel() == 0:
        raise ValueError(f"tokens is empty, of shape {tuple(tokens.shape)}")
    ids = tokens.reshape(-1, tokens.shape[-1])
    warn_of_two_bos(model, ids)
    return ids.to(dimensions.device_of(model)), tokens.ndim == 2


def warn_of_two_bos(model: Any, ids: Int[Tensor, "batch pos"]) -> None:
    """Say so where every prompt begins with two BOS tokens."""
    bos = getattr(model.tokenizer, "bos_token_id", None)
    if bos is not None and ids.shape[1] > 1 and bool((ids[:, :2] == bos).all()):
        warnings.warn(
            f"tokens begin with {model.tokenizer.bos_token!r} twice: a chat template writes its own, so make the "
            "tokens with prepend_bos=False",
            stacklevel=5,
        )


def one_prompt(model: Any, tokens: Tokens) -> Int[Tensor, "1 pos"]:
    """Return the token ids of a single prompt.

    Raises:
        ValueError: If there are several prompts, or no token.
    """
    ids, _ = token_batch(model, tokens)
    if len(ids) != 1:
        raise ValueError(f"tokens hold {len(ids)} prompts, and one is explained at a time: pass tokens[0]")
    return ids
