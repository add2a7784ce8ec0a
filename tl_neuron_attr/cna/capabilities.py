"""What a change of a model must leave alone: accuracy on cases, perplexity on text; and the neurons that must stay.

Follow-up work to paper 3 calls neurons that every task needs *general*: zeroing them breaks the model, whatever else
they do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.cna.answered import answered
from tl_neuron_attr.cna.arithmetic_cases import Case
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.batches import of_tokens
from tl_neuron_attr.model.intervene import ablate
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.results.plural import plural
from tl_neuron_attr.results.table import PrintsAsTable, Table

PERPLEXITY = "perplexity"


@typechecked_fields
@dataclass(frozen=True)
class Guard:
    """What is measured before and after an edit, and how much of it may be lost.

    Attributes:
        cases: Cases by name, whose accuracy is measured: ``{"facts": ..., "arithmetic": ...}``.
        texts: Token ids of texts the model was not trained on, whose perplexity is measured.
        accuracy_lost: How much of an accuracy may be lost; 0.01 is one point.
        perplexity_gained: By which share perplexity may rise.
    """

    cases: Mapping[str, Sequence[Case]]
    texts: Sequence[Int[Tensor, "_"]] = ()
    accuracy_lost: float = 0.01
    perplexity_gained: float = 0.05

    def __post_init__(self) -> None:
        if not self.cases and not len(self.texts):
            raise ValueError("a guard needs cases or texts, got neither")
        if empty := [name for name, cases in self.cases.items() if not cases]:
            raise ValueError(f"cases of {empty[0]!r} is empty: give at least one")
        if short := [i for i, text in enumerate(self.texts) if len(text) < 2]:
            raise ValueError(
                f"texts must have at least two tokens each, text {short[0]} has {len(self.texts[short[0]])}"
            )

    @typechecked
    def measure(self, model: Any) -> dict[str, float]:
        """Return accuracies by name, and perplexity."""
        found = {name: _mean(answered(model, cases)) for name, cases in self.cases.items()}
        return {**found, **({PERPLEXITY: perplexity(model, self.texts)} if len(self.texts) else {})}

    @typechecked
    def failures(self, before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
        """Return which of two measurements differ by more than is allowed, in words."""
        failed: list[str] = []
        for name, was in before.items():
            if name == PERPLEXITY and after[name] > was * (1 + self.perplexity_gained):
                failed.append(f"perplexity {was:.3f} -> {after[name]:.3f}")
            elif name != PERPLEXITY and after[name] < was - self.accuracy_lost - 1e-9:
                failed.append(f"{name} {100 * was:.1f} -> {100 * after[name]:.1f} %")
        return failed


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class SafeNeurons(PrintsAsTable):
    """Neurons that may be edited together, and those that may not.

    Attributes:
        neurons: Those that may.
        frame: One row per neuron given: ``neuron``, ``kept``, ``fails`` (what editing it too would break).
    """

    neurons: Neurons
    frame: pd.DataFrame

    def table(self) -> Table:
        """Return the neurons that were left out, and why."""
        out = self.frame[~self.frame["kept"]]
        rows = list(zip(out["neuron"].tolist(), out["fails"].tolist(), strict=True))
        return Table(("left out", "because"), rows, f"{len(self.neurons)} of {plural(len(self.frame), 'neuron')} kept")


@typechecked
@torch.no_grad()
def safe_neurons(
    model: Any, neurons: Neurons, guard: Guard, *, scale: float = 0.0, progress: bool = True
) -> SafeNeurons:
    """Leave out neurons whose edit would break the model: one after the other, with those already kept.

    Args:
        model: The model.
        neurons: Neurons of one prompt, the most important first, such as from :func:`~tl_neuron_attr.cna.bias_neurons`.
        guard: What must be left alone.
        scale: What the edit multiplies them with.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If the neurons are of several prompts, or every one of them fails.

    Examples:
        >>> from tl_neuron_attr import cna, demo
        >>> model = demo.load()
        >>> pair = ("the nurse said that", "the doctor said that")
        >>> found = cna.bias_neurons(model, [pair], ["she", "he"], 2)
        >>> guard = Guard({"facts": cna.prompt_cases(model, demo.facts("sport")[:20])})
        >>> safe_neurons(model, found, guard, progress=False).frame["kept"].tolist()
        [True, True]
    """
    if neurons.batched:
        raise ValueError(
            f"neurons are of {plural(len(neurons.score), 'prompt')}, which share the weights: take neurons[0]"
        )
    before = guard.measure(model)
    kept: list[int] = []
    rows: list[dict[str, Any]] = []
    for i in tqdm(range(len(neurons)), desc="guard", unit="neuron", disable=not progress):
        with ablate(model, neurons.pick([*kept, i]), scale=scale):
            failures = guard.failures(before, guard.measure(model))
        kept += [] if failures else [i]
        rows.append({"neuron": neurons.labels[i], "kept": not failures, "fails": "; ".join(failures)})
    if not kept:
        raise ValueError(
            f"every one of the {len(neurons)} neurons fails the guard: allow more, or edit by another scale"
        )
    return SafeNeurons(neurons.pick(kept), pd.DataFrame(rows))


@typechecked
@torch.no_grad()
def perplexity(model: Any, texts: Sequence[Int[Tensor, "_"]], *, batch_size: int = 32) -> float:
    """Return ``exp`` of the mean negative log-probability of all tokens but the first of each text.

    Examples:
        >>> from tl_neuron_attr import demo
        >>> model = demo.load()
        >>> perplexity(model, [model.to_tokens("3 + 5 = 8")[0]]) > 1
        True
    """
    surprise, count = 0.0, 0
    for batch in of_tokens(list(texts), batch_size=batch_size):
        tokens = batch.tokens.to(dimensions.device_of(model))
        log_probs = model(tokens)[:, :-1].float().log_softmax(-1)
        surprise -= float(log_probs.gather(2, tokens[:, 1:, None]).double().sum())
        count += tokens[:, 1:].numel()
    return float(torch.tensor(surprise / count, dtype=torch.float64).exp())


def _mean(right: Sequence[bool]) -> float:
    return sum(right) / len(right)
