"""Padding in a batch of token ids: found, refused, or cut off by an attention mask.

A model that is run without a mask reads padding as text. Where padding has a token of its own it is easily found. Where
the pad token also ends or begins texts, or there is none, only a pattern can give it away: what cannot be told from a
prompt that really is so is refused as well, and an attention mask settles it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Mask = Int[Tensor, "rows columns"] | Bool[Tensor, "rows columns"]
"""An attention mask as tokenizers give it; whether it fits the prompts is checked with a message of its own."""

_FIX = "pass attention_mask= (0 on padding, 1 elsewhere), or give prompts of one length"


def require_unpadded(model: Any, ids: Int[Tensor, "batch pos"], pos: Int[Tensor, "batch"]) -> None:
    """Refuse prompts that have, or seem to have, padding up to the position scored.

    Raises:
        ValueError: Naming the prompts and what can be done.
    """
    names = ("pad_token_id", "bos_token_id", "eos_token_id")
    pad, begins, ends = (getattr(model.tokenizer, name, None) for name in names)
    if pad is not None and pad not in (begins, ends):
        seen = torch.arange(ids.shape[1], device=ids.device) <= pos[:, None]
        _refuse(((ids == pad) & seen).any(1), f"hold the pad token {pad} before the position scored, or at it")
        return
    for token in sorted({token for token in (pad, begins, ends) if token is not None}):
        _require_no_run(token, ids, pos, once=begins in (None, token))
    if pad is None and len(ids.unique(dim=0)) > 1:
        _refuse(_repeats(ids, pos), "begin or end with 0 or a repeated token, and the tokenizer has no pad token")


def _require_no_run(token: int, ids: Int[Tensor, "batch pos"], pos: Int[Tensor, "batch"], *, once: bool) -> None:
    """Refuse prompts that end with a token, or begin with it; all may begin with it once where that is usual."""
    is_token = ids == token
    leading = is_token.long().cumprod(1).sum(1)
    at_end = is_token.gather(1, pos[:, None])[:, 0] & (pos > 0)
    _refuse(at_end, f"end with token {token} at the position scored, and it may be padding")
    _refuse(leading > int(once), f"begin with token {token}{' twice or more' * once}, and it may be padding")
    _refuse(leading > leading.min(), f"begin with token {token} and others do not: it may be padding")


def _repeats(ids: Int[Tensor, "batch pos"], pos: Int[Tensor, "batch"]) -> Bool[Tensor, "batch"]:
    """Return which prompts begin or end as if padded by some token: with 0, a common choice, or with one twice."""
    last, before = (ids.gather(1, places[:, None])[:, 0] for places in (pos, (pos - 1).clamp(min=0)))
    twice = ids[:, 0] == ids[:, min(1, ids.shape[1] - 1)]
    return (pos > 0) & (twice | (last == before) | (last == 0) | (ids[:, 0] == 0))


def _refuse(padded: Bool[Tensor, "batch"], finding: str) -> None:
    if bool(padded.any()):
        raise ValueError(f"prompts {padded.nonzero()[:, 0].tolist()} {finding}: {_FIX}")


def real_spans(
    ids: Int[Tensor, "batch pos"], attention_mask: Mask, pos: Int[Tensor, "batch"]
) -> Sequence[tuple[int, int]]:
    """Return where each prompt's real tokens begin and end.

    Raises:
        ValueError: If the mask does not fit the prompts, has gaps, or is 0 at a position scored.

    Examples:
        >>> ids, mask = torch.tensor([[0, 0, 5], [7, 8, 0]]), torch.tensor([[0, 0, 1], [1, 1, 0]])
        >>> real_spans(ids, mask, torch.tensor([2, 1]))
        [(2, 3), (0, 2)]
    """
    if attention_mask.shape != ids.shape:
        raise ValueError(f"attention_mask has shape {tuple(attention_mask.shape)}, tokens {tuple(ids.shape)}")
    real = attention_mask.to(ids.device)
    if not bool(((real == 0) | (real == 1)).all()):
        raise ValueError(f"attention_mask must hold 0 and 1 only, got {real.unique().tolist()[:5]}")
    length = ids.shape[1]
    places = torch.arange(length, device=ids.device)
    begins = places.where(real > 0, length).min(1).values
    ends = places.where(real > 0, -1).max(1).values + 1
    holes = (ends - begins) != real.sum(1)
    if bool(holes.any()):
        raise ValueError(f"attention_mask has no tokens, or gaps, in prompts {holes.nonzero()[:, 0].tolist()}")
    padding = real.gather(1, pos[:, None])[:, 0] == 0
    if bool(padding.any()):
        raise ValueError(
            f"pos is on padding for prompts {padding.nonzero()[:, 0].tolist()}: pass pos=, the last real one of each"
        )
    return list(zip(begins.tolist(), ends.tolist(), strict=True))
