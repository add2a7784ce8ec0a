"""What a model says after prompts: whether it is right and how sure, as it is, under hooks, or with heads zeroed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from tl_neuron_attr.incontext.batches import icl_batches
from tl_neuron_attr.incontext.prompts import IclPrompt
from tl_neuron_attr.model.components import Head
from tl_neuron_attr.model.intervene import ablate
from tl_neuron_attr.numerics.sublayer import score_dtype
from tl_neuron_attr.results.intervals import interval

Among = Literal["vocabulary", "labels"]
"""What an answer competes with: every token (the paper's accuracy, as far as we know it), or the labels only."""

Hook = tuple[str, Callable[..., Tensor | None]]
"""What ``model.hooks(fwd_hooks=...)`` takes."""

Correction = Callable[[Sequence[IclPrompt]], list[Hook]]
"""From the prompts of a batch to the hooks to run it under."""

ROWS = 256
"""Prompts run together by default, copies counted."""


@dataclass(frozen=True)
class Outcomes:
    """What was said after each prompt, under each condition where there are several.

    Attributes:
        gold: The index of the right label.
        label: The index of the likeliest label.
        says_label: Whether the likeliest token of all is a label.
        log_prob: Of the right label among all tokens, in nats.
        log_odds: log p(right label) - log p(any other label), in nats.
    """

    gold: Int[Tensor, "prompt"]
    label: Int[Tensor, "*condition prompt"]
    says_label: Bool[Tensor, "*condition prompt"]
    log_prob: Float[Tensor, "*condition prompt"]
    log_odds: Float[Tensor, "*condition prompt"]

    @classmethod
    def of(cls, logits: Float[Tensor, "row d_vocab"], label_ids: Sequence[int], gold: Int[Tensor, "row"]) -> "Outcomes":
        """What logits at the last position say.

        Examples:
            >>> said = Outcomes.of(torch.tensor([[0.0, 2.0, 1.0]]), [1, 2], torch.tensor([1]))
            >>> said.label.tolist(), said.says_label.tolist(), said.log_odds.tolist()
            ([0], [True], [-1.0])
        """
        log_p = logits.to(score_dtype(logits.dtype)).log_softmax(-1)
        of_labels = log_p[:, list(label_ids)]
        right = of_labels.gather(1, gold[:, None])[:, 0]
        others = of_labels.scatter(1, gold[:, None], -torch.inf).logsumexp(-1)
        says_label = torch.isin(log_p.argmax(-1), torch.tensor(list(label_ids), device=logits.device))
        return cls(gold, of_labels.argmax(-1), says_label, right, right - others)

    @property
    def prompts(self) -> int:
        """The number of prompts."""
        return len(self.gold)

    def right(self, among: Among = "vocabulary") -> Bool[Tensor, "*condition prompt"]:
        """Whether the right label is the likeliest of all tokens, or of the labels."""
        right = self.label == self.gold
        return right if among == "labels" else right & self.says_label

    def prob(self, among: Among = "vocabulary") -> Float[Tensor, "*condition prompt"]:
        """The probability of the right label among all tokens, or among the labels."""
        return self.log_odds.sigmoid() if among == "labels" else self.log_prob.exp()

    def __getitem__(self, condition: int | slice | list[int] | None) -> "Outcomes":
        """The outcomes under one condition, or some of them; with None, those of one as a row."""
        return Outcomes(self.gold, *(getattr(self, f.name)[condition] for f in fields(self)[1:]))


@torch.no_grad()
def outcomes(
    model: Any, prompts: Sequence[IclPrompt], *, correction: Correction | None = None, batch_size: int = ROWS
) -> Outcomes:
    """What the model says after each prompt, under a correction's hooks if there is one."""
    parts: list[tuple[list[int], Outcomes]] = []
    for batch in icl_batches(model, prompts, batch_size=batch_size):
        chosen = [prompts[i] for i in batch.indices]
        tokens, mask = batch.inputs()
        with model.hooks(fwd_hooks=[] if correction is None else correction(chosen)):
            logits = model(tokens, **mask)[:, -1]
        parts.append((batch.indices, Outcomes.of(logits, prompts[0].label_ids, _gold(chosen, logits.device))))
    return _joined(parts)


@torch.no_grad()
def outcomes_without(
    model: Any,
    prompts: Sequence[IclPrompt],
    sets: Sequence[Sequence[Head]],
    *,
    batch_size: int = ROWS,
    progress: bool = False,
    what: str = "zeroing heads",
) -> Outcomes:
    """What the model says with each set of heads zeroed: many sets of one batch are one run.

    Returns:
        Outcomes with a row a set.
    """
    parts: list[tuple[list[int], Outcomes]] = []
    with tqdm(total=len(sets) * len(prompts), desc=what, unit="run", disable=not progress) as bar:
        for batch in icl_batches(model, prompts, batch_size=min(batch_size, 64)):
            gold = _gold([prompts[i] for i in batch.indices], batch.tokens.device)
            found: list[Outcomes] = []
            for some in _chunks(sets, max(1, batch_size // len(gold))):
                tokens, mask = batch.inputs(len(some))
                with ablate(model, [list(heads) for heads in some for _ in range(len(gold))]):
                    logits = model(tokens, **mask)[:, -1]
                found.append(Outcomes.of(logits, prompts[0].label_ids, gold.repeat(len(some))))
                bar.update(len(tokens))
            parts.append((batch.indices, _stacked(found, gold)))
    return _joined(parts)


def accuracy(said: Outcomes, labels: Sequence[str], *, among: Among = "vocabulary") -> dict[str, float]:
    """The share of right answers with its 95 % bootstrap interval over prompts, and the share by right label.

    Of several conditions, the mean over them.
    """
    right = said.right(among).double()
    right = right.reshape(-1, said.prompts).mean(0)
    mean, low, high = interval(pd.Series(right.tolist()))
    by_label = {f"accuracy_{word}": float(right[said.gold == i].mean()) for i, word in enumerate(labels)}
    return {"accuracy": mean, "low": low, "high": high, **by_label, "log_prob": float(said.log_prob.mean())}


def _gold(prompts: Sequence[IclPrompt], device: torch.device) -> Int[Tensor, "prompt"]:
    return torch.tensor([prompt.gold for prompt in prompts], device=device)


def _stacked(found: Sequence[Outcomes], gold: Int[Tensor, "prompt"]) -> Outcomes:
    """Outcomes of repeated prompts as a row a repetition."""
    columns = (
        torch.cat([getattr(o, f.name) for o in found]).unflatten(0, (-1, len(gold))) for f in fields(Outcomes)[1:]
    )
    return Outcomes(gold, *columns)


def _joined(parts: Sequence[tuple[list[int], Outcomes]]) -> Outcomes:
    """Outcomes of batches in the order in which the prompts were given."""
    order = torch.tensor([i for indices, _ in parts for i in indices]).argsort()
    return Outcomes(*(torch.cat([getattr(o, f.name) for _, o in parts], -1)[..., order] for f in fields(Outcomes)))


def _chunks(sets: Sequence[Sequence[Head]], size: int) -> Iterator[Sequence[Sequence[Head]]]:
    return (sets[start : start + size] for start in range(0, len(sets), size))
