"""Prompts given as text or as token ids."""

from typing import Any

from jaxtyping import Int
from torch import Tensor

Tokens = str | Int[Tensor, "pos"] | Int[Tensor, "batch pos"]
"""A prompt's text, its token ids, or those of a batch of prompts of one length."""


def token_batch(model: Any, tokens: Tokens) -> tuple[Int[Tensor, "batch pos"], bool]:
    """Token ids, and whether the user thinks of a batch.

    Raises:
        ValueError: If there is no token.
    """
    if isinstance(tokens, str):
        if not tokens:
            raise ValueError("tokens is an empty prompt")
        return model.to_tokens(tokens), False
    if tokens.numel() == 0:
        raise ValueError(f"tokens is empty, of shape {tuple(tokens.shape)}")
    return tokens.reshape(-1, tokens.shape[-1]).to(model.W_U.device), tokens.ndim == 2


def one_prompt(model: Any, tokens: Tokens) -> Int[Tensor, "1 pos"]:
    """The token ids of a single prompt.

    Raises:
        ValueError: If there are several prompts, or no token.
    """
    ids, _ = token_batch(model, tokens)
    if len(ids) != 1:
        raise ValueError(f"tokens hold {len(ids)} prompts; a chain is of one: pass tokens[0]")
    return ids
