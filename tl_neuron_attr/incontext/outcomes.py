"""What a model predicts after prompts: whether it is right and how sure, under hooks or with heads zeroed."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.incontext.icl_batches import icl_batches
from tl_neuron_attr.incontext.icl_prompt import IclPrompt
from tl_neuron_attr.model.components import NamedHeads
from tl_neuron_attr.model.intervene import Hook
from tl_neuron_attr.model.rerun import Rerun, require_finite_logits, rerun, runs_within, unembedding_last
from tl_neuron_attr.numerics.increase import MAX_BYTES
from tl_neuron_attr.numerics.sublayer import score_dtype
from tl_neuron_attr.results.equality import EqualByData
from tl_neuron_attr.results.intervals import interval

Among = Literal["vocabulary", "labels"]
"""What an answer competes with: every token (the paper's accuracy; second-hand), or only the labels."""

Correction = Callable[[Sequence[IclPrompt]], list[Hook]]
"""A function from the prompts of a batch to the hooks to run them under."""

BATCH_SIZE = 256
"""The most prompts in one forward pass, counting copies: enough to fill a GPU with short prompts."""


@typechecked_fields
@dataclass(frozen=True, eq=False)
class Outcomes(EqualByData):
    """What was predicted after each prompt, under each condition if there are several.

    Attributes:
        gold: The index of the right label.
        label: The index of the likeliest label.
        predicts_label: Whether the likeliest token of all is a label.
        log_prob: The right label's log-probability among all tokens, in nats.
        log_odds: log p(right label) - log p(any other label), in nats.
    """

    gold: Int[Tensor, "prompt"]
    label: Int[Tensor, "*condition prompt"]
    predicts_label: Bool[Tensor, "*condition prompt"]
    log_prob: Float[Tensor, "*condition prompt"]
    log_odds: Float[Tensor, "*condition prompt"]

    @classmethod
    def of(cls, logits: Float[Tensor, "row d_vocab"], label_ids: Sequence[int], gold: Int[Tensor, "row"]) -> "Outcomes":
        """Return the outcomes that logits at the last position give.

        Examples:
            >>> result = Outcomes.of(torch.tensor([[0.0, 2.0, 1.0]]), [1, 2], torch.tensor([1]))
            >>> result.label.tolist(), result.predicts_label.tolist(), result.log_odds.tolist()
            ([0], [True], [-1.0])
        """
        log_p = logits.to(score_dtype(logits.dtype)).log_softmax(-1)
        of_labels = log_p[:, list(label_ids)]
        right = of_labels.gather(1, gold[:, None])[:, 0]
        others = of_labels.scatter(1, gold[:, None], -torch.inf).logsumexp(-1)
        predicts_label = torch.isin(log_p.argmax(-1), torch.tensor(list(label_ids), device=logits.device))
        return cls(gold, of_labels.argmax(-1), predicts_label, right, right - others)

    @property
    def prompts(self) -> int:
        """Return the number of prompts."""
        return len(self.gold)

    @typechecked
    def right(self, among: Among = "vocabulary") -> Bool[Tensor, "*condition prompt"]:
        """Return whether the right label is the likeliest of all tokens, or of the labels."""
        right = self.label == self.gold
        return right if among == "labels" else right & self.predicts_label

    @typechecked
    def prob(self, among: Among = "vocabulary") -> Float[Tensor, "*condition prompt"]:
        """Return the right label's probability among all tokens, or among the labels."""
        return self.log_odds.sigmoid() if among == "labels" else self.log_prob.exp()

    @typechecked
    def __getitem__(self, condition: int | slice | list[int] | None) -> "Outcomes":
        """Return the outcomes under one condition or some of them; None adds a dimension of one condition."""
        return Outcomes(self.gold, *(getattr(self, f.name)[condition] for f in fields(self)[1:]))


@typechecked
@torch.no_grad()
def outcomes(
    model: Any, prompts: Sequence[IclPrompt], *, correction: Correction | None = None, batch_size: int = BATCH_SIZE
) -> Outcomes:
    """Return what the model predicts after each prompt, under a correction's hooks if there is one.

    Raises:
        ValueError: If there is no prompt, the prompts have different labels, or the logits hold NaN or Inf.
    """
    batches: list[tuple[list[int], Outcomes]] = []
    for batch in icl_batches(model, prompts, batch_size=batch_size):
        chosen = [prompts[i] for i in batch.indices]
        tokens, mask = batch.inputs()
        with model.hooks(fwd_hooks=[] if correction is None else correction(chosen)), unembedding_last(model, tokens):
            logits = model(tokens, **mask)[:, 0]
        require_finite_logits(model, logits)
        batches.append((batch.indices, Outcomes.of(logits, prompts[0].label_ids, _gold(chosen, logits.device))))
    return joined(batches)


@typechecked
@torch.no_grad()
def outcomes_without(
    model: Any,
    prompts: Sequence[IclPrompt],
    sets: Sequence[NamedHeads],
    *,
    batch_size: int = BATCH_SIZE,
    max_bytes: int = MAX_BYTES,
    progress: bool = False,
    what: str = "zeroing heads",
) -> Outcomes:
    """Return what the model predicts with each set of heads zeroed.

    Many sets share a forward pass, layers below a set's lowest head are not run again, and only the last position is
    unembedded; see :mod:`tl_neuron_attr.model.rerun`.

    Args:
        model: The model.
        prompts: Prompts with one set of labels.
        sets: The heads zeroed together, by set.
        batch_size: The most runs in a forward pass.
        max_bytes: A cap on the working set, which may make forward passes smaller.
        progress: Whether to show a progress bar.
        what: What the progress bar says.

    Returns:
        Outcomes with one row per set.

    Raises:
        ValueError: If there is no set or no prompt, the prompts have different labels, or the logits hold NaN or Inf.
        IndexError: If a head is out of range, or named twice in a set.
    """
    if not sets:
        raise ValueError("sets is empty: give at least one set of heads, such as [] for none")
    batches: list[tuple[list[int], Outcomes]] = []
    with tqdm(total=len(sets) * len(prompts), desc=what, unit="run", disable=not progress) as bar:
        for batch in icl_batches(model, prompts, batch_size=batch_size):
            gold = _gold([prompts[i] for i in batch.indices], batch.tokens.device)
            runs = min(batch_size, runs_within(model, batch.tokens.shape[1], max_bytes))
            found = rerun(model, batch.tokens, sets, mask=batch.mask, batch_size=runs, max_bytes=max_bytes, bar=bar)
            batches.append((batch.indices, _by_set(found, prompts[0].label_ids, gold, len(sets))))
    return joined(batches)


def accuracy(result: Outcomes, labels: Sequence[str], *, among: Among = "vocabulary") -> dict[str, float]:
    """Return the share of right answers with its 95 % bootstrap interval over prompts, and the share by right label.

    The accuracy is given both ways, over the vocabulary (``in_vocabulary``) and among the labels (``among_labels``),
    with the means of ``log_prob`` and ``log_odds`` in nats. Several conditions are averaged.

    Examples:
        The likeliest label is right twice, but another token is likelier still in the second prompt:

        >>> logits = torch.tensor([[0.0, 2.0, 1.0], [9.0, 1.0, 2.0]])
        >>> found = accuracy(Outcomes.of(logits, [1, 2], torch.tensor([0, 1])), ("foo", "bar"))
        >>> found["accuracy"], found["in_vocabulary"], found["among_labels"], found["log_odds"]
        (0.5, 0.5, 1.0, 1.0)
    """
    right = result.right(among).double()
    right = right.reshape(-1, result.prompts).mean(0)
    mean, low, high = interval(pd.Series(right.tolist()))
    by_label = {f"accuracy_{word}": float(right[result.gold == i].mean()) for i, word in enumerate(labels)}
    return {
        "accuracy": mean, "low": low, "high": high, **by_label,
        "in_vocabulary": float(result.right("vocabulary").double().mean()),
        "among_labels": float(result.right("labels").double().mean()),
        "log_prob": float(result.log_prob.mean()), "log_odds": float(result.log_odds.mean()),
    }  # fmt: skip


def _gold(prompts: Sequence[IclPrompt], device: torch.device) -> Int[Tensor, "prompt"]:
    return torch.tensor([prompt.gold for prompt in prompts], device=device)


def _by_set(found: Iterable[Rerun], label_ids: Sequence[int], gold: Int[Tensor, "prompt"], sets: int) -> Outcomes:
    """Return the outcomes of runs, one row per set."""
    order: list[Tensor] = []
    batches: list[Outcomes] = []
    for runs in found:
        order.append(runs.sets * len(gold) + runs.prompts)
        batches.append(Outcomes.of(runs.logits, label_ids, gold[runs.prompts]))
    at = torch.cat(order).argsort()
    columns = (
        torch.cat([getattr(o, f.name) for o in batches])[at].unflatten(0, (sets, -1)) for f in fields(Outcomes)[1:]
    )
    return Outcomes(gold, *columns)


def joined(batches: Sequence[tuple[list[int], Outcomes]]) -> Outcomes:
    """Return the outcomes of batches in the order in which the prompts were given."""
    order = torch.tensor([i for indices, _ in batches for i in indices]).argsort()
    return Outcomes(*(torch.cat([getattr(o, f.name) for _, o in batches], -1)[..., order] for f in fields(Outcomes)))
