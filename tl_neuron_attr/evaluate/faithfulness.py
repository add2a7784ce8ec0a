"""Do the neurons a method picks matter? Zero them and see what is left of the answer (paper 1, section 4.1)."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.evaluate.method_scores import (
    METHODS,
    UNTOUCHED,
    AnyMethod,
    Method,
    OwnScore,
    best_by_method,
    named_methods,
)
from tl_neuron_attr.evaluate.outcome import METRICS, Outcome
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.batches import Batch, batches
from tl_neuron_attr.model.intervene import ablate
from tl_neuron_attr.model.targets import token_id
from tl_neuron_attr.results.intervals import interval, named_interval
from tl_neuron_attr.results.table import PrintsAsTable, Table


@dataclass(frozen=True, repr=False, eq=False)
class Faithfulness(PrintsAsTable):
    """What was left of each prompt's answer after zeroing each method's best neurons.

    Attributes:
        frame: One row per prompt, method and number of neurons: ``prompt``, ``score`` (the method, ``"none"`` for the
            untouched model), ``k``, ``rank``, ``reciprocal_rank``, ``prob``, ``log_prob`` (nats).
        k: The number of neurons of the table.
        problems: Why a prompt was left out, each by its place among the targets.
    """

    frame: pd.DataFrame
    k: int
    problems: tuple[str, ...] = ()

    def summary(self, k: int | None = None) -> pd.DataFrame:
        """Return means over prompts with 95 % bootstrap intervals, one row per method, lowest log-probability first.

        Raises:
            ValueError: If nothing was measured at ``k``.
        """
        k = self.k if k is None else k
        if k not in set(self.frame["k"]):
            raise ValueError(f"k={k} was not measured; there are {sorted(set(self.frame['k']) - {0})}")
        chosen = self.frame[(self.frame["k"] == k) | (self.frame["score"] == UNTOUCHED)]
        rows: list[dict[str, Any]] = []
        for score, group in chosen.groupby("score"):
            rows.append({"score": score})
            for metric in METRICS:
                rows[-1] |= named_interval(metric, interval(group[metric]))
        return pd.DataFrame(rows).sort_values("log_prob", ignore_index=True)

    def differences(self, reference: str = "log_prob_increase", k: int | None = None) -> pd.DataFrame:
        """Return how much less log-probability each method leaves than ``reference`` does, in nats, paired by prompt.

        One row per method: the mean over prompts and its 95 % bootstrap interval; both values of a prompt are drawn
        together, so that easy and hard prompts do not widen it. Above zero, the method picks better.

        Raises:
            ValueError: If nothing was measured at ``k``, or by ``reference``.
        """
        k = self.k if k is None else k
        chosen = self.frame[(self.frame["k"] == k) & (self.frame["score"] != UNTOUCHED)]
        left = chosen.pivot(index="prompt", columns="score", values="log_prob")
        if reference not in left:
            raise ValueError(f"reference={reference!r} was not measured at k={k}; there are {sorted(left)}")
        rows = [
            {"score": name, **named_interval("difference", interval(left[reference] - left[name]))}
            for name in left
            if name != reference
        ]
        return pd.DataFrame(rows).sort_values("difference", ascending=False, ignore_index=True)

    def curve(self) -> pd.DataFrame:
        """Return the mean over prompts of every metric, by method and number of neurons."""
        return self.frame.groupby(["score", "k"], as_index=False)[list(METRICS)].mean()

    def table(self) -> Table:
        """Return the paper's Table 2: a bigger drop means better chosen neurons."""
        rows = [
            (row["score"], *(f"{row[m]:.3f} [{row[f'{m}_low']:.3f}, {row[f'{m}_high']:.3f}]" for m in METRICS))
            for row in self.summary().to_dict("records")
        ]
        count = self.frame["prompt"].nunique()
        caption = f"{self.k} MLP neurons zeroed in each of {count} prompts; mean and 95 % bootstrap interval"
        caption += f"; {len(self.problems)} left out" if self.problems else ""
        return Table(("score", "MRR", "probability", "log-probability (nats)"), rows, caption)


@typechecked
def faithfulness(
    model: Any,
    prompts: Sequence[str],
    targets: Sequence[int | str],
    *,
    scores: Sequence[Method] = METHODS,
    k: int = 10,
    curve: Sequence[int] = (),
    own_scores: Mapping[str, OwnScore] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> Faithfulness:
    """Zero each method's ``k`` best MLP neurons in each prompt, and measure the target token's rank and probability.

    Neurons are chosen over all layers and zeroed at every position, as setting their parameters to zero would (paper 1,
    section 4.1). The paper's claim is that its score lowers all three metrics most.

    Args:
        model: The model.
        prompts: The prompts; the answer is the next token.
        targets: One token per prompt: an id, or a string that is one token. A prompt whose target is neither is left
            out.
        scores: The methods; all of :data:`METHODS` by default. ``"random"`` draws neurons that are active.
        k: How many neurons of the table.
        curve: Further numbers of neurons to measure.
        own_scores: Scores of your own, by name, measured beside the others.
        batch_size: Prompts run together, of one length each.
        seed: Of the random neurons.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If prompts and targets differ in number, a prompt is empty, no target is one token, or a number of
            neurons is not between 1 and all there are, or a score of your own has the name of another, another shape
            than one score per neuron, or scores that are NaN.

    Warns:
        UserWarning: Naming targets that are not one token; they are in ``.problems``.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> facts = tna.demo.facts("capital")[:2]
        >>> found = faithfulness(tna.demo.load(), [f.text for f in facts], [f.answer for f in facts],
        ...     scores=["log_prob_increase", "random"], progress=False)
        >>> found.summary()["score"].tolist()[0]
        'log_prob_increase'
    """
    if len(prompts) != len(targets):
        raise ValueError(f"targets must hold one token a prompt: {len(prompts)} prompts, {len(targets)} targets")
    counts = sorted({k, *curve})
    _require_counts(model, counts)
    methods = named_methods(scores, own_scores or {})
    ids, problems = _token_ids(model, targets)
    frames: list[pd.DataFrame] = []
    with tqdm(total=len(ids), desc="faithfulness", unit="prompt", disable=not progress) as bar:
        for each in batches(model, [prompts[i] for i in ids], batch_size=batch_size):
            batch = Batch([list(ids)[at] for at in each.indices], each.tokens)
            target = torch.tensor([ids[i] for i in batch.indices], device=batch.tokens.device)
            frames += _of_batch(model, batch, target, methods, counts, seed)
            bar.update(len(batch.indices))
    frame = pd.concat(frames).sort_values(["prompt", "k", "score"], ignore_index=True)
    return Faithfulness(frame, k, problems)


def _token_ids(model: Any, targets: Sequence[int | str]) -> tuple[dict[int, int], tuple[str, ...]]:
    """Return the token of each target that is one, by its place, and what is wrong with the others.

    Raises:
        ValueError: If none is one token.
    """
    ids: dict[int, int] = {}
    problems: list[str] = []
    d_vocab = dimensions.d_vocab(model)
    for i, target in enumerate(targets):
        try:
            token = token_id(model, target, f"targets[{i}]")
        except ValueError as error:
            problems.append(str(error))
        else:
            if 0 <= token < d_vocab:
                ids[i] = token
            else:
                problems.append(f"targets[{i}] must be a token id between 0 and {d_vocab - 1}, got {token}")
    if problems and not ids:
        raise ValueError(f"no target is one token; {problems[0]}")
    if problems:
        warnings.warn(f"{len(problems)} of {len(targets)} prompts left out; {problems[0]}", stacklevel=4)
    return ids, tuple(problems)


def _of_batch(
    model: Any,
    batch: Batch,
    target: Int[Tensor, "batch"],
    methods: Mapping[str, AnyMethod],
    counts: Sequence[int],
    seed: int,
) -> list[pd.DataFrame]:
    with torch.no_grad():
        logits, cache = model.run_with_cache(batch.tokens)
    frames = [_frame(batch, UNTOUCHED, 0, logits, target)]
    for name, method in methods.items():
        ranked = best_by_method(model, cache, batch, target, method, max(counts), seed)
        for k in counts:
            with ablate(model, ranked.top(k)), torch.no_grad():
                frames.append(_frame(batch, name, k, model(batch.tokens), target))
    return frames


def _frame(batch: Batch, method: str, k: int, logits: Tensor, target: Int[Tensor, "batch"]) -> pd.DataFrame:
    frame = Outcome.of(logits[:, -1], target).frame()
    return frame.assign(prompt=batch.indices, score=method, k=k)


def _require_counts(model: Any, counts: Sequence[int]) -> None:
    available = sum(dimensions.d_mlp(model, layer) for layer in range(model.cfg.n_layers))
    for k in counts:
        if not 1 <= k <= available:
            raise ValueError(f"k must be between 1 and the {available} MLP neurons, got {k}")
