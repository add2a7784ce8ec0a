"""Token ids and token text: which ones a cache was made from, and how they are shown."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

_PROBED = 8  # embedding entries compared before whole rows are
_TRIED = 4  # candidates compared in full
_SPACE = "\u2423"


def recover_tokens(W_E: Float[Tensor, "d_vocab d_embed"], embed: Float[Tensor, "n d_embed"]) -> Int[Tensor, "n"] | None:
    """The tokens whose embeddings ``embed`` holds, up to one factor shared by all (Gemma scales its embeddings).

    A cache does not hold the prompt. Returns None if any row is not an embedding; of equal embeddings the first.
    """
    if W_E.shape[1] != embed.shape[-1]:
        return None
    probe = normalize(W_E[:, :_PROBED].to(embed.dtype), dim=-1).T
    near = torch.cat([(normalize(part[:, :_PROBED], dim=-1) @ probe).topk(_TRIED).indices for part in embed.split(64)])
    rows = W_E[near].to(embed.dtype)
    factor = (rows * embed[:, None]).sum(-1) / rows.square().sum(-1).clamp_min(torch.finfo(embed.dtype).tiny)
    error = (rows * factor[..., None] - embed[:, None]).norm(dim=-1) / embed.norm(dim=-1, keepdim=True)
    best = error.min(-1)
    used = factor.gather(1, best.indices[:, None])
    if bool((best.values > 1e-2).any()) or not torch.allclose(used, used[:1].expand_as(used), rtol=1e-2):
        return None
    return near.gather(1, best.indices[:, None])[:, 0]


def token_text(model: Any, token: int) -> str:
    """The text of one token, its leading space kept; ``"#7"`` for a model without a tokenizer."""
    tokenizer = model.tokenizer
    if tokenizer is None:
        return f"#{token}"
    text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    piece = tokenizer.convert_ids_to_tokens(token)
    sentencepiece = isinstance(piece, str) and piece.startswith("\u2581")
    return f" {text.lstrip()}" if sentencepiece else text


def visible(text: str) -> str:
    """Token text for a table: one line, spaces at the ends and control characters made visible."""
    core = text.strip(" ")
    lead, tail = len(text) - len(text.lstrip(" ")), len(text) - len(text.rstrip(" "))
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in core)
    return _SPACE * lead + shown + (_SPACE * tail if core else "")
