"""Prompts in batches: the shortest first, padded on the left, with the mask that hides the padding from attention.

Prompts for a float64 model are never padded: TransformerLens (4.3) masks with a number that its float32 softmax takes
for minus infinity, and a padded row becomes NaN. Their batches hold prompts of one length.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.incontext.icl_prompt import IclPrompt
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.results.equality import EqualByData
from tl_neuron_attr.results.plural import plural


@typechecked_fields
@dataclass(frozen=True, eq=False)
class IclBatch(EqualByData):
    """Some prompts as the model takes them.

    Attributes:
        indices: The prompts' indices in the given list.
        tokens: Their token ids; every prompt ends at the last position.
        mask: The attention mask, 0 on padding; None if no prompt is padded.
    """

    indices: list[int]
    tokens: Int[Tensor, "batch pos"]
    mask: Int[Tensor, "batch pos"] | None

    @typechecked
    def inputs(self, copies: int = 1) -> tuple[Int[Tensor, "rows pos"], dict[str, Tensor]]:
        """Return the tokens to run, all prompts repeated ``copies`` times, and the mask if there is one."""
        mask = {} if self.mask is None else {"attention_mask": self.mask.repeat(copies, 1)}
        return self.tokens.repeat(copies, 1), mask


@typechecked
def icl_batches(model: Any, prompts: Sequence[IclPrompt], *, batch_size: int) -> Iterator[IclBatch]:
    """Yield the prompts in batches of similar lengths; of equal lengths for a float64 model.

    Raises:
        ValueError: If there is no prompt, the prompts have different labels, or ``batch_size`` is below 1.
    """
    require_alike(prompts)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    groups = [list(group) for _, group in groupby(order, lambda i: len(prompts[i]))] if _exact(model) else [order]
    for group in groups:
        for start in range(0, len(group), batch_size):
            chosen = group[start : start + batch_size]
            yield batch_of(model, [prompts[i] for i in chosen], chosen)


@typechecked
def batch_of(model: Any, prompts: Sequence[IclPrompt], indices: Sequence[int] | None = None) -> IclBatch:
    """Return the prompts as one batch, padded on the left.

    Raises:
        ValueError: If the prompts for a float64 model differ in length.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompts = [tna.incontext.from_demo(model, tna.demo.in_context(1, k))[0] for k in (2, 4)]
        >>> batch = batch_of(model, prompts)
        >>> batch.mask.sum(1).tolist()  # tokens that are not padding
        [14, 24]
    """
    longest = max(len(prompt) for prompt in prompts)
    padding = _pad(model)
    rows = [[padding] * (longest - len(prompt)) + list(prompt.tokens) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    device = dimensions.device_of(model)
    padded = any(len(prompt) < longest for prompt in prompts)
    if padded and _exact(model):
        raise ValueError(
            f"prompts are of {sorted({len(prompt) for prompt in prompts})} tokens, and TransformerLens gives NaN for "
            "padded prompts of a float64 model: run prompts of one length together, or the model in float32"
        )
    return IclBatch(
        list(indices or range(len(prompts))),
        torch.tensor(rows, device=device),
        torch.tensor(mask, device=device) if padded else None,
    )


def require_alike(prompts: Sequence[IclPrompt]) -> None:
    """Check that there are prompts and that all have the same labels.

    Raises:
        ValueError: If there is none, or the labels differ.
    """
    if not prompts:
        raise ValueError("prompts is empty: give at least one")
    labels = {(prompt.labels, prompt.label_ids) for prompt in prompts}
    if len(labels) > 1:
        raise ValueError(
            f"prompts have different labels: {sorted({words for words, _ in labels})}; give one set per call"
        )


def positions_of_labels(stream: Stream, prompts: Sequence[IclPrompt]) -> Int[Tensor, "batch label"]:
    """Return the positions of each prompt's labels in a cache of those prompts, counting padding on the left.

    Raises:
        ValueError: If the cache holds other prompts, or the prompts differ in their number of demonstrations.
    """
    require_alike(prompts)
    batch, length, _ = stream.shape
    if len(prompts) != batch:
        raise ValueError(
            f"cache holds {plural(batch, 'prompt')} and prompts {len(prompts)}: give the prompts it was made of"
        )
    numbers = {len(prompt.demonstrations) for prompt in prompts}
    if len(numbers) > 1:
        raise ValueError(f"prompts have {sorted(numbers)} demonstrations: give prompts with one number per call")
    ids = stream.tokens()
    for i, prompt in enumerate(prompts):
        if not _ends_with(length, None if ids is None else ids[i].tolist(), prompt):
            raise ValueError(
                f"cache is of another prompt than prompts[{i}]: {prompt.text[:60]!r} must stand at its end, padding on "
                "the left; make both from the same batch"
            )
    shifted = [[length - len(prompt) + position for position in prompt.label_positions] for prompt in prompts]
    return torch.tensor(shifted, device=stream.device)


def _ends_with(length: int, tokens: list[int] | None, prompt: IclPrompt) -> bool:
    """Return whether a cached prompt ends with this one, or could if its tokens are not cached."""
    if tokens is None:
        return length == len(prompt)
    return length >= len(prompt) and tokens[length - len(prompt) :] == list(prompt.tokens)


def _exact(model: Any) -> bool:
    return dimensions.dtype_of(model) == torch.float64


def _pad(model: Any) -> int:
    tokenizer = model.tokenizer
    pad = None if tokenizer is None else tokenizer.pad_token_id
    return 0 if pad is None else int(pad)
