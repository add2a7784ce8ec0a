"""The static score of every head (paper 2, section on finding heads; second-hand), prompt by prompt.

    S = log p(b | o + h) - log p(b | h)

``b`` is the label that the model predicts, ``o`` what the head wrote at the last position and ``h`` what its layer
read. This is the score of :func:`~tl_neuron_attr.attribute_heads` and costs one cached forward pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from tl_neuron_attr.incontext.icl_batches import icl_batches
from tl_neuron_attr.incontext.icl_prompt import IclPrompt
from tl_neuron_attr.knowledge.attribution import attribute_heads
from tl_neuron_attr.model.cache_checks import needed_by
from tl_neuron_attr.model.run import run_at_last
from tl_neuron_attr.model.stream import Stream

Followed = Literal["predicted", "gold"]
"""The label whose log-probability the static score follows; in the paper the predicted one."""


@dataclass(frozen=True)
class StaticScores:
    """Every head's static score and its attention to labels, prompt by prompt.

    Attributes:
        increase: The increase of the label's log-probability by each head, in nats.
        attention: The share of each head's attention from the last position that goes to labels.
        followed: The index of the label that was followed.
    """

    increase: Float[Tensor, "prompt layer head"]
    attention: Float[Tensor, "prompt layer head"]
    followed: Int[Tensor, "prompt"]


@torch.no_grad()
def static_scores(
    model: Any,
    prompts: Sequence[IclPrompt],
    *,
    label: Followed = "predicted",
    batch_size: int = 64,
    progress: bool = False,
) -> StaticScores:
    """Return the static score of every head and its attention to labels."""
    rows: list[tuple[int, Tensor, Tensor, int]] = []
    with tqdm(total=len(prompts), desc="static scores", unit="prompt", disable=not progress) as bar:
        for batch in icl_batches(model, prompts, batch_size=batch_size):
            chosen = [prompts[i] for i in batch.indices]
            tokens, mask = batch.inputs()
            logits, cache = run_at_last(model, tokens, needed_by(("attn",)), **mask)
            ids = torch.tensor(chosen[0].label_ids, device=logits.device)
            gold = torch.tensor([prompt.gold for prompt in chosen], device=logits.device)
            followed = gold if label == "gold" else logits[:, ids].argmax(-1)
            increase = attribute_heads(cache, ids[followed], model=model)
            attention = _to_labels(Stream(cache, model), chosen)
            rows += zip(batch.indices, increase, attention, followed.tolist(), strict=True)
            bar.update(len(chosen))
    rows.sort(key=lambda row: row[0])
    return StaticScores(
        torch.stack([row[1] for row in rows]),
        torch.stack([row[2] for row in rows]),
        torch.tensor([row[3] for row in rows]),
    )


def _to_labels(stream: Stream, prompts: Sequence[IclPrompt]) -> Float[Tensor, "prompt layer head"]:
    """Return the attention from the last position to labels; prompts may have different numbers of labels."""
    sums: list[Tensor] = []
    for i, prompt in enumerate(prompts):
        shift = stream.shape[1] - len(prompt)
        at = torch.tensor(prompt.label_positions, device=stream.device) + shift
        layers = [stream.pattern(layer)[i, :, -1, at] for layer in range(stream.n_layers)]
        sums.append(torch.stack(layers).sum(-1))
    return torch.stack(sums)
