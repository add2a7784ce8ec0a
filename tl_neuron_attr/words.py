"""The tokens a neuron promotes and suppresses: its direction read out over the vocabulary (paper 1, section 3.3)."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr.checked import checked
from tl_neuron_attr.stream import Stream
from tl_neuron_attr.tokens import token_text
from tl_neuron_attr.types import SITES, Neurons, TokenLists, Words
from tl_neuron_attr.weights import direction, score_dtype, unembedding

_SHOWN = 6
_TILE = 64


@checked
@torch.no_grad()
def top_tokens(cache_or_model: Any, neurons: Neurons, k: int = 10) -> TokenLists:
    """The ``k`` tokens each neuron promotes and suppresses most, as it was active.

    A neuron adds ``coefficient * direction`` to the stream, so a negative coefficient swaps promoted and suppressed
    tokens (paper 1, Table 1). The final norm's weight is applied; its scale changes no order.

    Args:
        cache_or_model: An ``ActivationCache``, or the model.
        neurons: The neurons, of one prompt or of a batch.
        k: How many tokens.

    Raises:
        ValueError: If ``k`` is not between 1 and the size of the vocabulary.
        IndexError: If a neuron is not of this model.

    Example:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> _, cache = model.run_with_cache("Tim Duncan plays the sport of")
        >>> value = tna.value_neurons(cache, " basketball", k=3)
        >>> len(tna.top_tokens(cache, value, k=5).promoted[0])
        5
    """
    model: Any = cache_or_model.model if isinstance(cache_or_model, ActivationCache) else cache_or_model
    d_vocab = model.W_U.shape[1]
    if not 1 <= k <= d_vocab:
        raise ValueError(f"k must be between 1 and the vocabulary's {d_vocab} tokens, got {k}")
    readout = unembedding(model, score_dtype(model.W_U.dtype))
    ups: list[tuple[str, ...]] = []
    downs: list[tuple[str, ...]] = []
    for part in _writes(model, neurons).split(_TILE):
        logits = readout.project(part)
        ups += _texts(model, logits.topk(k).indices)
        downs += _texts(model, (-logits).topk(k).indices)
    return TokenLists(tuple(neurons.flat_labels), tuple(ups), tuple(downs))


def reader(stream: Stream) -> Any:
    """What reads the :class:`Words` of neurons found in ``stream``; keeps model and token ids, not the cache."""
    model, ids = stream.model, stream.tokens()

    def read(neurons: Neurons) -> Words:
        promoted = top_tokens(model, neurons, k=min(_SHOWN, model.W_U.shape[1])).promoted
        return Words(() if ids is None else prompt_tokens(model, ids), dict(zip(neurons.keys, promoted, strict=True)))

    return read


def prompt_tokens(model: Any, ids: Int[Tensor, "batch pos"]) -> tuple[tuple[str, ...], ...]:
    """The text of each prompt's tokens."""
    return tuple(_texts(model, ids))


def _writes(model: Any, neurons: Neurons) -> Float[Tensor, "n d_model"]:
    """Each neuron's direction, turned round where its coefficient is negative."""
    at = zip(*(neurons.flat(name) for name in ("site", "layer", "head", "index", "coefficient")), strict=True)
    rows = [direction(model, SITES[int(s)], int(la), int(h), int(i)) * (-1 if c < 0 else 1) for s, la, h, i, c in at]
    return torch.stack(rows)


def _texts(model: Any, ids: Int[Tensor, "n k"]) -> list[tuple[str, ...]]:
    return [tuple(token_text(model, token) for token in row) for row in ids.tolist()]
