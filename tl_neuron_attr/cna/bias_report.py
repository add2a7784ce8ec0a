"""What an edit does to a bias and to everything else the model can do (paper 3, Table 13)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.cna.bias_neurons import Pair, log_probs, target_ids, towards
from tl_neuron_attr.cna.capabilities import PERPLEXITY, Guard
from tl_neuron_attr.model.intervene import edit
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.results.plural import plural
from tl_neuron_attr.results.table import PrintsAsTable, Table
from tl_neuron_attr.results.token_text import encodable, quoted

_COLUMNS = ("before", "after")


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class BiasReport(PrintsAsTable):
    """A bias and what the model can do, before and after an edit (paper 3, Table 13).

    Attributes:
        frame: One row per pair and target: ``pair``, ``target``, ``towards`` (which prompt it is biased towards), and
            the differences of log p in nats ``before`` and ``after``.
        capabilities: One row per measure of the guard: ``measure``, ``before``, ``after``.
        failures: What the guard found broken, in words.
        neurons: What was edited.
        scale: What they were multiplied with.
    """

    frame: pd.DataFrame
    capabilities: pd.DataFrame
    failures: tuple[str, ...]
    neurons: Neurons
    scale: float

    @typechecked
    def by(self, column: str = "towards") -> pd.DataFrame:
        """Return mean differences by ``"towards"``, ``"pair"`` or ``"target"``, and over all.

        Raises:
            ValueError: If there is no such column.
        """
        if column not in ("towards", "pair", "target"):
            raise ValueError(f"column must be 'towards', 'pair' or 'target', got {quoted(column)}")
        means = self.frame.groupby(column, sort=False)[["before", "after"]].mean().reset_index()
        total = pd.DataFrame({column: ["all"], **{c: [self.frame[c].mean()] for c in ("before", "after")}})
        both = pd.concat([total, means], ignore_index=True)
        return both.assign(decrease=1 - both["after"] / both["before"])

    @property
    def decrease(self) -> float:
        """Return the share of the mean difference that the edit took away."""
        return float(self.by()["decrease"].iloc[0])

    def table(self) -> Table:
        """Return Table 13, and what the guard measured."""
        rows = [
            (f"log p difference, {row['towards']}", *(f"{row[c]:.3f}" for c in _COLUMNS))
            for row in self.by().to_dict("records")
        ]
        for row in self.capabilities.to_dict("records"):
            share = row["measure"] != PERPLEXITY
            rows.append((row["measure"], *(f"{100 * row[c]:.1f} %" if share else f"{row[c]:.3f}" for c in _COLUMNS)))
        verdict = f"GUARD FAILED: {'; '.join(self.failures)} (safe_neurons leaves such neurons out)"
        caption = f"{plural(len(self.neurons), 'neuron')} times {self.scale:g}: bias {-100 * self.decrease:+.1f} %"
        return Table(("", "before", "after"), rows, f"{caption}; {verdict}" if self.failures else caption)


@typechecked
@torch.no_grad()
def bias_report(
    model: Any,
    neurons: Neurons,
    prompt_pairs: Sequence[Pair],
    targets: Sequence[str | int],
    *,
    scale: float = 0.0,
    guard: Guard | None = None,
    sides: Pair = ("first", "second"),
    names: Sequence[str] | None = None,
    found_on: Sequence[Pair] = (),
) -> BiasReport:
    """Measure what editing neurons does to a bias and to everything else (paper 3, Table 13); the edit is undone.

    Args:
        model: The model.
        neurons: What is edited, such as from :func:`~tl_neuron_attr.cna.bias_neurons`.
        prompt_pairs: Pairs of prompts, none of which was used to find the neurons.
        targets: Tokens, each biased towards the prompt after which the unedited model finds it likelier.
        scale: What the neurons are multiplied with.
        guard: What else is measured.
        sides: What to call the first and the second prompt of a pair: ``("woman", "man")``.
        names: What to call each pair; the first prompt by default.
        found_on: The pairs that the neurons were found on: refused if among ``prompt_pairs``.

    Raises:
        ValueError: If there is no pair or target, one of ``found_on`` is among the pairs, the prompts of a pair differ
            in length, a target is not one token, names are not one a pair, or an edit is active already.

    Examples:
        >>> from tl_neuron_attr import cna, demo
        >>> model = demo.load()
        >>> pairs = [(f"the nurse {said} that", f"the doctor {said} that") for said in ("said", "thought")]
        >>> found = cna.bias_neurons(model, pairs[:1], ["she", "he"], 18, sites=("attn",))
        >>> bias_report(model, found, pairs[1:], ["she", "he"], found_on=pairs[:1]).decrease > 0
        True
    """
    if used := [pair for pair in prompt_pairs if pair in set(found_on)]:
        raise ValueError(f"prompt_pairs holds {used[0]}, on which the neurons were found: report on others")
    if names is not None and len(names) != len(prompt_pairs):
        raise ValueError(f"names must be one for each of the {len(prompt_pairs)} pairs, got {len(names)}")
    ids = target_ids(model, targets)
    before = log_probs(model, prompt_pairs, ids)
    measured = [guard.measure(model)] if guard else [{}]
    with edit(model, neurons, scale=scale):
        after = log_probs(model, prompt_pairs, ids)
        measured.append(guard.measure(model) if guard else {})
    biased = towards(before)
    shown = [encodable(name) for name in names or [first for first, _ in prompt_pairs]]
    rows = [
        {"pair": shown[p], "target": str(targets[t]), "towards": sides[side]}
        | {
            name: float(found[p, t, side] - found[p, t, 1 - side])
            for name, found in (("before", before), ("after", after))
        }
        for p in range(len(prompt_pairs))
        for t, side in enumerate(biased.tolist())
    ]
    failures = tuple(guard.failures(*measured)) if guard else ()
    return BiasReport(pd.DataFrame(rows), _capabilities(*measured), failures, neurons, scale)


def _capabilities(before: Mapping[str, float], after: Mapping[str, float]) -> pd.DataFrame:
    rows = [{"measure": name, "before": before[name], "after": after[name]} for name in before]
    return pd.DataFrame(rows, columns=["measure", "before", "after"])
