"""Positions that are padding, as far as a cache shows it: passed over by default, refused where they are named."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tl_neuron_attr.model.hook_points import pattern_hook
from tl_neuron_attr.model.position_cache import PositionCache
from tl_neuron_attr.model.positions import Positions
from tl_neuron_attr.model.stream import Stream


def require_real_positions(stream: Stream, places: Positions, *, given: bool) -> None:
    """Refuse positions that are padding.

    A masked position attends to nothing, so its pattern is flat over the future too; one that is masked as a key does
    not attend to itself. Right padding without a mask leaves no trace but the tokens themselves.

    Args:
        stream: The stream.
        places: One position per prompt.
        given: Whether the user named the positions, or they are the last ones by default.

    Raises:
        ValueError: Naming the prompts.
    """
    padding = _in_right_padding(stream, places, given=given)
    attends = [layer for layer in range(stream.n_layers) if stream.has(pattern_hook(layer))]
    if attends:
        pattern = stream.pattern_rows(attends[0], places)
        future = torch.arange(pattern.shape[-1], device=pattern.device) > places.pos[:, None]
        padding |= (pattern.sum(1) * future).sum(-1) > 0
        own = pattern[torch.arange(len(places), device=pattern.device), :, places.pos]
        padding |= own.sum(-1) == 0
    if bool(padding.any()):
        prompts = places.row[padding].unique().tolist()
        raise ValueError(
            f"pos is on padding for prompts {prompts}: pass pos=, the last real position of each prompt, or pad on "
            'the left (padding_side="left")'
        )


def last_real_positions(stream: Stream) -> Int[Tensor, "batch"]:
    """Return the last position of each prompt that is not padding, as far as the cache shows it without doubt.

    Padding on the right has a pad token that neither ends nor begins texts, or was masked: no head of the first layer
    lets it read itself. The last position of all where neither shows any.
    """
    batch, length = stream.shape[:2]
    padding = torch.zeros(batch, length, dtype=torch.bool, device=stream.device)
    tokens, tokenizer = stream.tokens(), stream.model.tokenizer
    pad = getattr(tokenizer, "pad_token_id", None)
    if tokens is not None and pad is not None and pad not in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        padding |= tokens == pad
    whole = not isinstance(stream.cache, PositionCache)  # of one row the diagonal says nothing
    if whole and stream.has("blocks.0.attn.hook_pattern"):
        padding |= stream.get("blocks.0.attn.hook_pattern").diagonal(dim1=-2, dim2=-1).sum(1) == 0
    return (length - 1 - _to_the_end(padding).sum(1)).clamp_min(0)


def _to_the_end(flags: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """Return where a flag and all behind it are set."""
    return flags.flip(1).cumprod(1).flip(1).bool()


def _in_right_padding(stream: Stream, places: Positions, *, given: bool) -> Bool[Tensor, "place"]:
    """Return which positions hold the pad token with nothing but pad tokens behind them.

    Where the pad token also ends or begins texts (GPT-2), the first of the run may be real, and a prompt given alone
    may end in it.
    """
    tokens, tokenizer = stream.tokens(), stream.model.tokenizer
    pad = getattr(tokenizer, "pad_token_id", None)
    if pad is None or tokens is None:
        return torch.zeros(len(places), dtype=torch.bool, device=stream.device)
    is_pad = tokens == pad
    to_the_end = _to_the_end(is_pad)[places.row, places.pos]
    ambiguous = pad in (tokenizer.eos_token_id, tokenizer.bos_token_id)
    if not ambiguous or (not given and stream.shape[0] > 1):
        return to_the_end
    before = is_pad[places.row, (places.pos - 1).clamp_min(0)] & (places.pos > 0)
    return to_the_end & before
