"""The tokens that neurons and positions stand for, read out over the vocabulary (paper 1, section 3.3)."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.cache_checks import require_hooks
from tl_neuron_attr.model.components import head_name
from tl_neuron_attr.model.neuron_directions import directions_of, through_head
from tl_neuron_attr.model.positions import Positions
from tl_neuron_attr.model.readable_tokens import ReadableTokens, best_tokens
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.unembedding import unembedding
from tl_neuron_attr.model.within import within
from tl_neuron_attr.numerics.sublayer import SITES, score_dtype
from tl_neuron_attr.results.followed_text import FollowedText
from tl_neuron_attr.results.neuron_text import NeuronText
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.results.token_lists import TokenLists
from tl_neuron_attr.results.token_text import token_texts, visible

View = Literal["stream", "key", "value"]
_SHOWN = 6
_CHUNK = 64


@typechecked
@torch.no_grad()
def top_tokens(cache_or_model: Any, neurons: Neurons, k: int = 10, *, readable: bool = False) -> TokenLists:
    """Return the ``k`` tokens each neuron promotes and suppresses most, as it was active.

    A neuron adds ``coefficient * direction`` to the stream, so a negative coefficient swaps promoted and suppressed
    tokens (paper 1, Table 1). The final norm's weight is applied; its scale changes no order.

    Args:
        cache_or_model: An ``ActivationCache``, or the model.
        neurons: The neurons, of one prompt or of a batch.
        k: How many tokens.
        readable: Leave out what is not a word or the beginning of one: byte fragments, reserved tokens, punctuation,
            continuations. The table says how many were left out.

    Raises:
        ValueError: If ``k`` is not between 1 and the size of the vocabulary, or ``readable`` is asked of a model
            without a tokenizer.
        IndexError: If a neuron is not of this model.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> _, cache = model.run_with_cache("Tim Duncan plays the sport of")
        >>> value = tna.value_neurons(cache, " basketball", k=3)
        >>> len(tna.top_tokens(cache, value, k=5).promoted[0])
        5
    """
    model = model_of(cache_or_model)
    words = ReadableTokens(model) if readable else None
    return _lists(model, signed_directions(model, neurons), tuple(neurons.flat_labels), k, words)


@typechecked
@torch.no_grad()
def transformed_tokens(
    cache_or_model: Any, neurons: Neurons, layer: int, head: int | None, *, k: int = 10
) -> TokenLists:
    """Return the tokens each neuron promotes once a head has moved it: ``W_O W_V norm(write)`` read out.

    A query neuron of an attention neuron is often unreadable until then (papers 1 and 3: "hidden-interpretable"
    neurons). The norms' scales change no order; the sign rule is that of :func:`top_tokens`.

    Args:
        cache_or_model: An ``ActivationCache``, or the model.
        neurons: The neurons, of one prompt or of a batch.
        layer: The head's layer.
        head: The head; None for all heads of the layer, each attending fully, as paper 3 does.
        k: How many tokens.

    Raises:
        ValueError: If ``k`` is not between 1 and the size of the vocabulary.
        IndexError: If the head or a neuron is not of this model.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> _, cache = model.run_with_cache("Tim Duncan plays the sport of")
        >>> query = tna.query_neurons(cache, tna.value_neurons(cache, " basketball", k=5, sites=("attn",)), k=2)
        >>> len(transformed_tokens(cache, query, 3, 0, k=5).promoted)
        2
    """
    model = model_of(cache_or_model)
    moved = through_head(model, signed_directions(model, neurons), layer, head)
    through = head_name(layer, head)
    return _lists(model, moved, tuple(f"{label} through {through}" for label in neurons.flat_labels), k)


@typechecked
@torch.no_grad()
def position_tokens(
    cache: ActivationCache, layer: int, *, view: View = "stream", prompt: int = 0, k: int = 10, model: Any = None
) -> TokenLists:
    """Return the tokens that each position's stream, as layer ``layer`` reads it, stands for.

    Args:
        cache: A cache of a forward pass.
        layer: The layer that reads.
        view: ``"stream"``: all of it. ``"key"``: what attention wrote into it so far, the authors' key words of a
            position. ``"value"``: what MLPs wrote into it so far, their value words.
        prompt: Which prompt of a batch.
        k: How many tokens.
        model: The model that made the cache; ``cache.model`` by default.

    Raises:
        ValueError: If ``k`` is not between 1 and the size of the vocabulary, or the cache lacks a hook.
        IndexError: If the layer or prompt is out of range.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> position_tokens(cache, 3, view="key", k=2).labels[-1]
        '@6 of'
    """
    stream = Stream(cache, model)
    require_hooks(stream, ())
    within("layer", layer, stream.n_layers)
    within("prompt", prompt, stream.shape[0])
    if view == "stream":
        written = stream.resid_pre(layer)[prompt]
    else:
        site = "attn" if view == "key" else "mlp"
        everywhere = torch.arange(stream.shape[1], device=stream.device)
        places = Positions(torch.full_like(everywhere, prompt), everywhere)
        nothing = torch.zeros_like(stream.resid_pre(0)[prompt])
        written = sum((stream.out(site, below, places) for below in range(layer)), start=nothing)
    ids = stream.tokens()
    tokens = [""] * len(written) if ids is None else prompt_tokens(stream.model, ids[prompt : prompt + 1])[0]
    return _lists(stream.model, written, tuple(f"@{i} {visible(t)}".strip() for i, t in enumerate(tokens)), k)


@torch.no_grad()
def neuron_text(
    model: Any,
    neurons: Neurons,
    ids: Int[Tensor, "batch pos"] | None = None,
    promoted: Int[Tensor, "*b k best"] | None = None,
) -> NeuronText:
    """Return the text of neurons: the tokens they promote, and those of their prompts where ``ids`` are known.

    Each direction is read out once however often the neurons name it, all of them in one product with ``W_U``; those
    whose ``promoted`` tokens a search noted, not at all.
    """
    found: dict[str, tuple[str, ...]] = {}
    if promoted is not None and promoted.shape[-1] > 0:
        noted = promoted.flatten(0, -2)
        known = (noted[:, 0] >= 0).nonzero()[:, 0].tolist()
        found = dict(zip((neurons.keys[i] for i in known), token_texts(model, noted[known].tolist()), strict=True))
    first = {key: i for i, key in reversed(list(enumerate(neurons.keys))) if key not in found}
    if first:
        others = _promoted(model, signed_directions(model, neurons.flattened().pick(list(first.values()))))
        found |= dict(zip(first, others, strict=True))
    return NeuronText(() if ids is None else prompt_tokens(model, ids), found)


def with_text(
    neurons: Neurons,
    stream: Stream,
    promoted: Int[Tensor, "*b k best"] | None = None,
    *,
    rows: Int[Tensor, "batch"] | None = None,
    followed: FollowedText | None = None,
) -> Neurons:
    """Return neurons found in ``stream`` with their text, and what their scores are of.

    ``rows`` are the prompts' in the cache, all by default.
    """
    ids = stream.tokens()
    if ids is not None and rows is not None:
        ids = ids[rows]
    text = neuron_text(stream.model, neurons, ids, promoted)
    return replace(neurons, text=replace(text, followed=followed))


def require_k(model: Any, k: int) -> None:
    """Refuse a number of tokens that the vocabulary does not have.

    Raises:
        ValueError: With the valid range.
    """
    d_vocab = dimensions.d_vocab(model)
    if not 1 <= k <= d_vocab:
        raise ValueError(f"k must be between 1 and the vocabulary's {d_vocab} tokens, got {k}")


def promoted_shown(model: Any) -> int:
    """Return how many promoted tokens go with a neuron."""
    return min(_SHOWN, dimensions.d_vocab(model))


def signed_directions(model: Any, neurons: Neurons) -> Float[Tensor, "n d_model"]:
    """Return each neuron's direction in the stream, negated where its coefficient is negative."""
    at = zip(*(neurons.flat(name) for name in ("site", "layer", "head", "index")), strict=True)
    rows = directions_of(model, ((SITES[int(s)], int(la), int(h), int(i)) for s, la, h, i in at))
    return torch.stack([-row if c < 0 else row for row, c in zip(rows, neurons.flat("coefficient"), strict=True)])


def prompt_tokens(model: Any, ids: Int[Tensor, "batch pos"]) -> tuple[tuple[str, ...], ...]:
    """Return the text of each prompt's tokens."""
    return token_texts(model, ids.tolist())


def model_of(cache_or_model: Any) -> Any:
    """Return the model, or that of a cache.

    Raises:
        TypeError: If it is neither.
    """
    model = cache_or_model.model if isinstance(cache_or_model, ActivationCache) else cache_or_model
    if not hasattr(model, "cfg"):
        raise TypeError(f"cache_or_model must be an ActivationCache or a model, got a {type(model).__name__}")
    return model


def _lists(
    model: Any,
    vectors: Float[Tensor, "n d_model"],
    labels: tuple[str, ...],
    k: int,
    words: ReadableTokens | None = None,
) -> TokenLists:
    """Return what vectors of the stream promote and suppress, by the final norm's weight and the unembedding."""
    require_k(model, k)
    ups: list[list[int]] = []
    downs: list[list[int]] = []
    left_out = 0
    for logits in _logits(model, vectors):
        for lists, signed in ((ups, logits), (downs, -logits)):
            for row in signed:
                ids, skipped = best_tokens(row, k, words)
                lists.append(ids)
                left_out += skipped
    promoted, suppressed = token_texts(model, ups), token_texts(model, downs)
    return TokenLists(labels, promoted, suppressed, None if words is None else left_out)


def _promoted(model: Any, vectors: Float[Tensor, "n d_model"]) -> tuple[tuple[str, ...], ...]:
    k = promoted_shown(model)
    best = [tokens for logits in _logits(model, vectors) for tokens in logits.topk(k).indices.tolist()]
    return token_texts(model, best)


def _logits(model: Any, vectors: Float[Tensor, "n d_model"]) -> Iterator[Float[Tensor, "chunk d_vocab"]]:
    """Yield the logits of vectors, some at a time, by the final norm's weight and the unembedding."""
    readout = unembedding(model, score_dtype(dimensions.dtype_of(model)))
    yield from (readout.project(part) for part in vectors.split(_CHUNK))
