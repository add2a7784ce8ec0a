"""Induction heads and function vectors, which in-context heads are compared with.

The prefix-matching score is TransformerLens's (``head_detector``). A function vector is the mean of what heads write at
the last position of in-context prompts (Todd et al., "Function vectors in large language models", ICLR 2024).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.head_detector import detect_head, get_induction_head_detection_pattern

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.incontext.batches import icl_batches, require_alike
from tl_neuron_attr.incontext.outcomes import Hook, Outcomes
from tl_neuron_attr.incontext.prompts import IclPrompt
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.batches import batches
from tl_neuron_attr.model.cache_checks import needed_by
from tl_neuron_attr.model.components import Head, NamedHeads, required_heads
from tl_neuron_attr.model.scored_cache import checked_stream
from tl_neuron_attr.model.tokens import prompt_ids
from tl_neuron_attr.results.intervals import interval
from tl_neuron_attr.results.table import PrintsAsTable, Table

SEQUENCES = 4


@typechecked
@torch.no_grad()
def prefix_matching(model: Any, *, length: int = 20, seed: int = 0) -> Float[Tensor, "layer head"]:
    """How much of its attention each head pays to the token after an earlier occurrence of the present one.

    On random words repeated once, by :func:`transformer_lens.head_detector.detect_head`, divided by what a perfect
    induction head would have there: 1 is perfect, about ``1 / length`` is chance.

    Args:
        model: The model; its tokenizer is needed.
        length: How many words are repeated.
        seed: Of the words.

    Raises:
        ValueError: If the model has no tokenizer, or ``length`` is below 2.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> prefix_matching(tna.demo.load(), length=10).shape
        torch.Size([5, 8])
    """
    if model.tokenizer is None:
        raise ValueError("the model has no tokenizer: prefix matching is measured on words")
    if length < 2:
        raise ValueError(f"length must be at least 2, got {length}")
    rng = random.Random(seed)
    texts = [" ".join(_words(model, rng, length) * 2) for _ in range(SEQUENCES)]
    return torch.stack(
        [detect_head(model, text, "induction_head").double() / _best(model, text) for text in texts]
    ).mean(0)


@dataclass(frozen=True)
class FunctionVector:
    """What heads write on average at the last position of in-context prompts.

    Attributes:
        heads: The heads.
        vectors: The mean of what each wrote into the stream.
    """

    heads: tuple[Head, ...]
    vectors: Float[Tensor, "head d_model"]

    def hooks(self, *, layer: int | None = None, scale: float = 1.0) -> list[Hook]:
        """Hooks that add the vectors at the last position: each behind its own layer, or all behind ``layer``.

        Examples:
            >>> FunctionVector(((1, 0), (1, 3)), torch.ones(2, 4)).hooks()[0][0]
            'blocks.1.hook_resid_post'
        """
        totals: dict[int, Tensor] = {}
        for (own, _), vector in zip(self.heads, self.vectors, strict=True):
            at = own if layer is None else layer
            totals[at] = totals.get(at, torch.zeros_like(vector)) + scale * vector
        return [(f"blocks.{at}.hook_resid_post", _adder(total)) for at, total in totals.items()]


@dataclass(frozen=True, repr=False, eq=False)
class VectorEffect(PrintsAsTable):
    """Zero-shot prompts (the query alone) before and after a function vector is added.

    Attributes:
        frame: A row a prompt and condition: ``prompt``, ``condition``, ``labels`` (the probability of all labels),
            ``right`` (whether the right label is the likeliest label), ``log_odds`` of the right label, in nats.
    """

    frame: pd.DataFrame

    def table(self) -> Table:
        """Means and 95 % bootstrap intervals, a row a condition."""
        rows = [
            (name, *("{:.3f} [{:.3f}, {:.3f}]".format(*interval(group[c])) for c in ("labels", "right", "log_odds")))
            for name, group in self.frame.groupby("condition", sort=False)
        ]
        headings = ("zero-shot", "p(labels)", "right among labels", "log-odds (nats)")
        return Table(headings, rows, f"{self.frame['prompt'].nunique()} queries without demonstrations")


@typechecked
@torch.no_grad()
def function_vector(
    model: Any, prompts: Sequence[IclPrompt], heads: NamedHeads, *, batch_size: int = 64
) -> FunctionVector:
    """The mean output of heads at the last position of prompts.

    Where a label's meaning changes from prompt to prompt, the mean can say that a label follows, but not which: draw
    prompts with ``classes`` fixed to ask for more.

    Raises:
        IndexError: If a head is out of range or named twice.
        ValueError: If there is no head or prompt, or a cache is refused.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompts = tna.incontext.from_demo(model, tna.demo.in_context(4, 4))
        >>> function_vector(model, prompts, [(3, 2)]).vectors.shape
        torch.Size([1, 128])
    """
    heads = required_heads(model, heads)
    total = torch.zeros(len(heads), dimensions.d_model(model), device=dimensions.device_of(model), dtype=torch.float64)
    for batch in icl_batches(model, prompts, batch_size=batch_size):
        tokens, mask = batch.inputs()
        _, cache = model.run_with_cache(tokens, names_filter=needed_by(("attn",)), **mask)
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
    """What a function vector does to the prompts' queries without any demonstration.

    Args:
        model: The model.
        prompts: Whose queries, separators and right labels are taken.
        vector: From :func:`function_vector`.
        layer: Behind which layer all of it is added; each head's part behind its own layer by default.
        scale: What it is multiplied with.
        batch_size: Queries run together, of one length each.

    Raises:
        ValueError: If there is no prompt, or prompts have different labels.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompts = tna.incontext.from_demo(model, tna.demo.in_context(4, 4))
        >>> effect = vector_effect(model, prompts, function_vector(model, prompts, [(3, 2)]))
        >>> effect.frame["condition"].unique().tolist()
        ['as it is', 'with the vector']
    """
    require_alike(prompts)
    texts = [f"{prompt.query}{prompt.separator}".rstrip(" ") for prompt in prompts]
    parts: list[pd.DataFrame] = []
    for condition, hooks in (("as it is", []), ("with the vector", vector.hooks(layer=layer, scale=scale))):
        for batch in batches(model, texts, batch_size=batch_size):
            with model.hooks(fwd_hooks=hooks):
                logits = model(batch.tokens)[:, -1]
            gold = torch.tensor([prompts[i].gold for i in batch.indices], device=logits.device)
            said = Outcomes.of(logits, prompts[0].label_ids, gold)
            labels = logits.softmax(-1)[:, list(prompts[0].label_ids)].sum(-1)
            columns = {"labels": labels, "right": said.right("labels").double(), "log_odds": said.log_odds}
            frame = pd.DataFrame({name: column.tolist() for name, column in columns.items()})
            parts.append(frame.assign(prompt=batch.indices, condition=condition))
    return VectorEffect(pd.concat(parts, ignore_index=True)[["prompt", "condition", "labels", "right", "log_odds"]])


def _adder(vector: Float[Tensor, "d_model"]) -> Any:
    def add(resid: Tensor, hook: Any) -> Tensor:
        moved = resid.clone()
        moved[:, -1] += vector.to(resid)
        return moved

    return add


def _words(model: Any, rng: random.Random, n: int) -> list[str]:
    """Different random words of the vocabulary that are one token in a text of words."""
    special = set(model.tokenizer.all_special_ids)
    found: dict[str, None] = {}
    while len(found) < n:
        token = rng.randrange(dimensions.d_vocab(model))
        word = model.tokenizer.decode([token]).strip()
        if (
            token not in special
            and word.isalnum()
            and len(model.tokenizer.encode(f"{word} {word}", add_special_tokens=False)) == 2
        ):
            found[word] = None
    return list(found)


def _best(model: Any, text: str) -> float:
    """What a head that always matches prefixes would score."""
    pattern = get_induction_head_detection_pattern(prompt_ids(model, text)[None].cpu())
    return float((pattern.sum(1) > 0).double().mean())
