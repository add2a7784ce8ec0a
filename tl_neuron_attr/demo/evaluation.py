"""How well a model does in the demo world: the table of docs/demo_model.md."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.demo.calculation import OPERATIONS, arithmetic
from tl_neuron_attr.demo.classification import in_context
from tl_neuron_attr.demo.gender import occupations
from tl_neuron_attr.demo.knowledge import KINDS, FactSplit, facts
from tl_neuron_attr.demo.labels import UNSEEN
from tl_neuron_attr.demo.world_prompts import InContextPrompt, Prompt
from tl_neuron_attr.demo.world_vocabulary import IDS, encode
from tl_neuron_attr.results.token_text import quoted

NextLogits = Callable[[Int[Tensor, "batch pos"]], Float[Tensor, "batch d_vocab"]]
"""Token ids of prompts of one length to the logits after their last token."""

_SEEDS = {"tuning": 1, "held_out": 2}


@dataclass(frozen=True)
class EvaluationRow:
    """One line of the table: what was asked, how many prompts, and the figure."""

    task: str
    prompts: int
    figure: float


@typechecked_fields
@dataclass(frozen=True)
class Evaluation:
    """Accuracies (share of prompts whose likeliest next token is the answer), and the error of the bias."""

    rows: tuple[EvaluationRow, ...]

    @typechecked
    def __getitem__(self, task: str) -> float:
        """Return a task's figure.

        Raises:
            KeyError: If there is no such task.
        """
        figures = {row.task: row.figure for row in self.rows}
        if task not in figures:
            raise KeyError(f"task must be one of {', '.join(figures)}, got {quoted(task)}")
        return figures[task]

    def __str__(self) -> str:
        width = max(len(row.task) for row in self.rows)
        lines = [f"| {'task':<{width}} | prompts | figure |", f"| {'-' * width} | ------: | -----: |"]
        return "\n".join(lines + [f"| {r.task:<{width}} | {r.prompts:>7} | {r.figure:>6.3f} |" for r in self.rows])


@torch.no_grad()
def last_logits(model: NextLogits, prompts: Sequence[Prompt], *, batch_size: int = 256) -> Float[Tensor, "n d_vocab"]:
    """Return logits after each prompt, ``<bos>`` put first; prompts of one length share a batch, nothing is padded."""
    tokens = [encode(p.text) for p in prompts]
    found: dict[int, Tensor] = {}
    for length in sorted({len(t) for t in tokens}):
        same = [i for i, t in enumerate(tokens) if len(t) == length]
        for start in range(0, len(same), batch_size):
            chosen = same[start : start + batch_size]
            logits = model(torch.tensor([tokens[i] for i in chosen]))
            found.update(zip(chosen, logits, strict=True))
    return torch.stack([found[i] for i in range(len(tokens))])


def correct(model: NextLogits, prompts: Sequence[Prompt]) -> list[bool]:
    """Return whether the likeliest next token of each prompt is its answer."""
    best = last_logits(model, prompts).argmax(-1).tolist()
    return [token == IDS[p.answer] for token, p in zip(best, prompts, strict=True)]


def share_of_she(model: NextLogits, prompts: Sequence[Prompt]) -> list[float]:
    """Return p(she) / (p(she) + p(he)) after each prompt."""
    logits = last_logits(model, prompts)
    return (logits[:, IDS["she"]] - logits[:, IDS["he"]]).sigmoid().tolist()


@typechecked
def evaluate(model: NextLogits, *, split: Literal["tuning", "held_out"] = "held_out", n: int = 1000) -> Evaluation:
    """Return every ability of the demo world, on prompts of one split.

    Args:
        model: Token ids to the logits after the last one, e.g. ``lambda tokens: bridge(tokens)[:, -1]``.
        split: ``held_out`` for figures to publish, ``tuning`` for choices.
        n: How many in-context prompts a line.
    """
    rows = [*_facts(model, split), *_arithmetic(model, split), *_in_context(model, split, n), *_occupations(model)]
    return Evaluation(tuple(rows))


def _row(task: str, outcomes: Sequence[float | bool]) -> EvaluationRow:
    return EvaluationRow(task, len(outcomes), sum(outcomes) / len(outcomes))


def _facts(model: NextLogits, split: Literal["tuning", "held_out"]) -> list[EvaluationRow]:
    new: FactSplit = "new" if split == "held_out" else "tuning_new"
    rows = [_row("facts, trained pairs", correct(model, facts()[::8]))]
    rows.append(_row(f"facts, {split} pairs", correct(model, facts(split=split))))
    outcomes = {kind: correct(model, facts(kind, split=new)) for kind in KINDS}
    rows.append(_row(f"facts, {new} templates", [o for group in outcomes.values() for o in group]))
    return rows + [_row(f"facts, {new} templates, {kind}", group) for kind, group in outcomes.items()]


def _arithmetic(model: NextLogits, split: Literal["tuning", "held_out"]) -> list[EvaluationRow]:
    rows = []
    for op in OPERATIONS:
        rows.append(_row(f"a {op} b, trained", correct(model, arithmetic(op)[:: 1 if op == "*" else 10])))
        rows.append(_row(f"a {op} b, {split}", correct(model, arithmetic(op, split=split))))
    rows.append(_row("one-digit, trained", correct(model, arithmetic(digits=1))))
    return rows


def _in_context(model: NextLogits, split: Literal["tuning", "held_out"], n: int) -> list[EvaluationRow]:
    seed = _SEEDS[split]

    def by_gold(name: str, prompts: list[InContextPrompt]) -> list[EvaluationRow]:
        right = correct(model, prompts)
        golds = [[r for r, p in zip(right, prompts, strict=True) if p.gold == g] for g in (0, 1)]
        labels = prompts[0].labels
        return [_row(name, right)] + [_row(f"{name}, gold {w}", r) for w, r in zip(labels, golds, strict=True)]

    rows = []
    for k in (2, 4, 8):
        rows += by_gold(f"in context, foo/bar, k={k}", in_context(n, k, split=split, seed=seed))
    fewer = in_context(n, 3, counts=(1, 2), split=split, seed=seed)
    rows += by_gold("in context, 1 foo + 2 bar", fewer)
    pairs = list(zip(UNSEEN[::2], UNSEEN[1::2], strict=True))
    unseen = [p for pair in pairs for p in in_context(n // len(pairs), 4, labels=pair, split=split, seed=seed)]
    rows.append(_row("in context, unseen nonsense labels, k=4", correct(model, unseen)))
    for pair in (("red", "blue"), ("tennis", "golf"), ("Paris", "Rome")):
        prompts = in_context(n // 2, 4, labels=pair, split=split, seed=seed)
        rows.append(_row(f"in context, {'/'.join(pair)}, k=4", correct(model, prompts)))
    topics = in_context(n, 4, task="topic", seed=seed)
    weak = in_context(n, 4, query="weak", split=split, seed=seed)
    strong = in_context(n, 4, query="strong", split=split, seed=seed)
    rows.append(_row("in context, topics, k=4", correct(model, topics)))
    rows.append(_row("in context, strong queries, k=4", correct(model, strong)))
    return [*rows, _row("in context, weak queries, k=4", correct(model, weak))]


def _occupations(model: NextLogits) -> list[EvaluationRow]:
    rows = []
    for name, new in (("trained", False), ("new", True)):
        prompts = occupations(new=new)
        shares = share_of_she(model, prompts)
        errors = [abs(s - p.share) for s, p in zip(shares, prompts, strict=True)]
        rows.append(_row(f"share of she, mean error, {name} templates", errors))
    return rows
