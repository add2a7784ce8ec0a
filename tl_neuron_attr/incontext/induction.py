"""Induction heads and function vectors, to compare in-context heads with.

The prefix-matching score is that of TransformerLens's ``head_detector``. A function vector is the mean of what heads
write at the last position of in-context prompts (Todd et al., "Function vectors in large language models", ICLR 2024).
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.head_detector import get_induction_head_detection_pattern

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.incontext.icl_batches import icl_batches, require_alike
from tl_neuron_attr.incontext.icl_prompt import IclPrompt
from tl_neuron_attr.incontext.outcomes import Hook, Outcomes
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.batches import batches
from tl_neuron_attr.model.cache_checks import needed_by
from tl_neuron_attr.model.components import Head, NamedHeads, required_heads
from tl_neuron_attr.model.hook_points import resid_post_hook
from tl_neuron_attr.model.rerun import unembedding_last
from tl_neuron_attr.model.run import run_at_last
from tl_neuron_attr.model.scored import checked_stream
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.tokens import prompt_ids
from tl_neuron_attr.model.within import within
from tl_neuron_attr.results.equality import EqualByData
from tl_neuron_attr.results.intervals import interval, shown_interval
from tl_neuron_attr.results.plural import plural
from tl_neuron_attr.results.table import PrintsAsTable, Table

_SEQUENCES = 4
"""Random sequences that the prefix-matching score is averaged over; scores of the bundled
model then have a standard deviation of .03 over seeds."""


@typechecked
@torch.no_grad()
def prefix_matching(model: Any, *, length: int = 20, seed: int = 0) -> Float[Tensor, "layer head"]:
    """Return how much of its attention each head pays to the token after an earlier occurrence of the current one.

    The model reads random words, repeated once. The share of attention is that of TransformerLens's
    :func:`~transformer_lens.head_detector.detect_head`, divided by the share of a perfect induction head: 1 is perfect,
    about ``1 / length`` is chance. Where a layer has fewer heads, or none, there are zeros.

    Args:
        model: The model, with its tokenizer.
        length: The number of words that are repeated.
        seed: The seed of the words.

    Raises:
        ValueError: If the model has no tokenizer or no embedding for the BOS that its tokenizer puts first, ``length``
            is below 2, the vocabulary has fewer words than that, or the sequence is longer than the model's context.

    Examples:
        The bundled model's best induction head and its score:

        >>> import tl_neuron_attr as tna
        >>> scores = prefix_matching(tna.demo.load(), length=10)
        >>> layer, head = divmod(int(scores.argmax()), scores.shape[1])
        >>> f"L{layer}H{head} {scores[layer, head]:.2f}"
        'L2H4 0.38'
    """
    if model.tokenizer is None:
        raise ValueError("the model has no tokenizer: prefix matching is measured on words")
    if length < 2:
        raise ValueError(f"length must be at least 2, got {length}")
    rng = random.Random(seed)
    texts = [" ".join(_words(model, rng, length) * 2) for _ in range(_SEQUENCES)]
    return torch.stack([_match(model, _ids(model, text)) for text in texts]).mean(0)


@typechecked_fields
@dataclass(frozen=True, eq=False)
class FunctionVector(EqualByData):
    """The mean output of heads at the last position of in-context prompts.

    Attributes:
        heads: The heads.
        vectors: The mean of what each head wrote into the stream.
    """

    heads: tuple[Head, ...]
    vectors: Float[Tensor, "head d_model"]

    @typechecked
    def hooks(self, *, layer: int | None = None, scale: float = 1.0) -> list[Hook]:
        """Return hooks that add the vectors at the last position: each after its own layer, or all after ``layer``.

        Examples:
            >>> FunctionVector(((1, 0), (1, 3)), torch.ones(2, 4)).hooks()[0][0]
            'blocks.1.hook_resid_post'

        Raises:
            IndexError: If ``layer`` is negative.
            ValueError: If ``scale`` is not finite.
        """
        if layer is not None and layer < 0:
            raise IndexError(f"layer must be 0 or more, got {layer}")
        if not math.isfinite(scale):
            raise ValueError(f"scale must be finite, got {scale}")
        totals: dict[int, Tensor] = {}
        for (own, _), vector in zip(self.heads, self.vectors, strict=True):
            at = own if layer is None else layer
            totals[at] = totals.get(at, torch.zeros_like(vector)) + scale * vector
        return [(resid_post_hook(at), _adder(total)) for at, total in totals.items()]


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class VectorEffect(PrintsAsTable):
    """Predictions for zero-shot prompts (the query alone), with and without a function vector.

    Attributes:
        frame: One row per prompt and condition: ``prompt``, ``condition``, ``labels`` (the probability of all labels),
            ``right`` (whether the right label is the likeliest label), ``log_odds`` of the right label, in nats.
    """

    frame: pd.DataFrame

    def table(self) -> Table:
        """Return means and 95 % bootstrap intervals, one row per condition."""
        rows = [
            (name, *(shown_interval(*interval(group[c])) for c in ("labels", "right", "log_odds")))
            for name, group in self.frame.groupby("condition", sort=False)
        ]
        headings = ("zero-shot", "p(labels)", "right among labels", "log-odds (nats)")
        queries = plural(self.frame["prompt"].nunique(), "query", many="queries")
        return Table(headings, rows, f"{queries} without demonstrations")


@typechecked
@torch.no_grad()
def function_vector(
    model: Any, prompts: Sequence[IclPrompt], heads: NamedHeads, *, batch_size: int = 64
) -> FunctionVector:
    """Return the mean output of heads at the last position of prompts.

    If the class of a label changes from prompt to prompt, the mean can promote labels as such but not the right one:
    draw prompts with fixed ``classes`` to test for more.

    Raises:
        IndexError: If a head is out of range or named twice.
        ValueError: If there is no head or prompt, or a cache is refused.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompts = tna.incontext.from_demo(model, tna.demo.in_context(4, 4))
        >>> vector = function_vector(model, prompts, [(3, h) for h in range(8)])
        >>> means = vector_effect(model, prompts, vector).frame.groupby("condition")["labels"].mean()
        >>> bool(means["with the vector"] > means["as it is"])  # labels become likelier
        True
    """
    heads = required_heads(model, heads)
    total = torch.zeros(len(heads), dimensions.d_model(model), device=dimensions.device_of(model), dtype=torch.float64)
    for batch in icl_batches(model, prompts, batch_size=batch_size):
        tokens, mask = batch.inputs()
        _, cache = run_at_last(model, tokens, needed_by(("attn",)), **mask)
        stream, places, _ = checked_stream(cache, ("attn",), model=model)
        for layer in {layer for layer, _ in heads}:
            writes = stream.sublayer("attn", layer, places).head_writes().sum((0, 2))
            for i, (own, head) in enumerate(heads):
                if own == layer:
                    total[i] += writes[head]
    return FunctionVector(tuple(heads), (total / len(prompts)).to(dimensions.dtype_of(model)))


@typechecked
@torch.no_grad()
def vector_effect(
    model: Any,
    prompts: Sequence[IclPrompt],
    vector: FunctionVector,
    *,
    layer: int | None = None,
    scale: float = 1.0,
    batch_size: int = 64,
) -> VectorEffect:
    """Measure the effect of a function vector on the prompts' queries without any demonstration.

    Args:
        model: The model.
        prompts: The prompts whose queries, separators and right labels are used.
        vector: From :func:`function_vector`.
        layer: The layer after which the whole vector is added; by default each head's vector is added after its own.
        scale: The factor of the vector.
        batch_size: The most queries in one forward pass; they have one length.

    Raises:
        IndexError: If the model has no such layer.
        ValueError: If there is no prompt, prompts have different labels, or ``scale`` is not finite.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompts = tna.incontext.from_demo(model, tna.demo.in_context(4, 4))
        >>> effect = vector_effect(model, prompts, function_vector(model, prompts, [(3, 2)]))
        >>> effect.frame["condition"].unique().tolist()
        ['as it is', 'with the vector']
    """
    if layer is not None:
        within("layer", layer, model.cfg.n_layers)
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}")
    require_alike(prompts)
    texts = [f"{prompt.query}{prompt.separator}".rstrip(" ") for prompt in prompts]
    frames: list[pd.DataFrame] = []
    for condition, hooks in (("as it is", []), ("with the vector", vector.hooks(layer=layer, scale=scale))):
        for batch in batches(model, texts, batch_size=batch_size):
            with model.hooks(fwd_hooks=hooks), unembedding_last(model, batch.tokens):
                logits = model(batch.tokens)[:, 0]
            gold = torch.tensor([prompts[i].gold for i in batch.indices], device=logits.device)
            result = Outcomes.of(logits, prompts[0].label_ids, gold)
            labels = logits.softmax(-1)[:, list(prompts[0].label_ids)].sum(-1)
            columns = {"labels": labels, "right": result.right("labels").double(), "log_odds": result.log_odds}
            frame = pd.DataFrame({name: column.tolist() for name, column in columns.items()})
            frames.append(frame.assign(prompt=batch.indices, condition=condition))
    return VectorEffect(pd.concat(frames, ignore_index=True)[["prompt", "condition", "labels", "right", "log_odds"]])


def _adder(vector: Float[Tensor, "d_model"]) -> Any:
    def add(resid: Tensor, hook: Any) -> Tensor:
        moved = resid.clone()
        moved[:, -1] += vector.to(resid)
        return moved

    return add


def _words(model: Any, rng: random.Random, n: int) -> list[str]:
    """Return different random words of the vocabulary that are one token in a text of words.

    Raises:
        ValueError: If the vocabulary has fewer than ``n`` of them.
    """
    size = dimensions.d_vocab(model)
    tried: set[int] = set()
    found: dict[str, None] = {}
    while len(found) < n:
        if len(tried) == size:
            raise ValueError(
                f"length must be at most {len(found)}, the number of words that are one token in this model's "
                f"vocabulary of {size}, got {n}"
            )
        token = rng.randrange(size)
        if token not in tried:
            tried.add(token)
            word = model.tokenizer.decode([token]).strip()
            if token not in model.tokenizer.all_special_ids and word.isalnum() and _is_one_token(model, word):
                found[word] = None
    return list(found)


def _is_one_token(model: Any, word: str) -> bool:
    """Return whether a word is one token with an embedding, at the start of a text and inside it."""
    ids = model.tokenizer.encode(f"{word} {word}", add_special_tokens=False)
    return len(ids) == 2 and max(ids) < dimensions.d_vocab(model)


def _ids(model: Any, text: str) -> Int[Tensor, "pos"]:
    """Return a text's token ids.

    Raises:
        ValueError: If one of them has no embedding, or there are more than the model's context.
    """
    ids, size = prompt_ids(model, text), dimensions.d_vocab(model)
    if int(ids.max()) >= size:
        raise ValueError(
            f"the tokenizer puts token {int(ids.max())} before a text, outside the model's vocabulary of {size}: give "
            "the model its own tokenizer, or set model.cfg.default_prepend_bos = False"
        )
    return ids


def _match(model: Any, ids: Int[Tensor, "pos"]) -> Float[Tensor, "layer head"]:
    """Return each head's share of attention where an induction head looks, over that of a perfect one."""
    wanted = get_induction_head_detection_pattern(ids[None].cpu()).double()
    _, cache = model.run_with_cache(ids[None], names_filter=needed_by(("attn",)), remove_batch_dim=True)
    stream = Stream(cache, model)
    shares = torch.zeros(stream.n_layers, dimensions.most_heads(model), dtype=torch.float64)
    for layer in range(stream.n_layers):
        if stream.weights(layer).has_attn:
            pattern = stream.pattern(layer)[0].double().cpu()
            shares[layer, : len(pattern)] = (pattern * wanted).sum((1, 2)) / pattern.sum((1, 2))
    return shares / (wanted.sum(1) > 0).double().mean()
