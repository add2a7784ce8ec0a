"""What fine-tuning did to the coefficients of a model's neurons (paper 3, Table 10).

The neurons are those that the other model uses more than the original: in each case, the ``k`` of the largest

    Imp(other) - Imp(original)

by comparative neuron analysis. Their coefficients are compared along the sign they have in the other model:

    increase = sum (c_other - c_original) sign(c_other) / sum |c_original|

over the ``k`` neurons and all cases (our reading; the paper gives the mean increase without its formula).

Neurons chosen because they rose will show a rise, whatever was changed: an adapter that taught nothing shows one too.
So a random change of the same matrices and the same size stands beside each adapter
(:func:`~tl_neuron_attr.cna.random_adapter.random_adapter`), its neurons chosen in the same way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.cna.answered import answered
from tl_neuron_attr.cna.arithmetic_cases import Case, require_cases
from tl_neuron_attr.cna.compare_neurons import require_shared
from tl_neuron_attr.cna.lora import Adapter
from tl_neuron_attr.cna.paired_runs import Run, paired_changes, plain
from tl_neuron_attr.cna.random_adapter import random_adapter
from tl_neuron_attr.model.targets import Target, one_each
from tl_neuron_attr.results.plural import plural
from tl_neuron_attr.results.table import PrintsAsTable, Table

_KS = (50, 30, 20, 10)
"""The numbers of neurons of Table 10."""

ORIGINAL = "original"


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class CoefficientIncrease(PrintsAsTable):
    """How much larger the coefficients of the neurons that other models use more are in them.

    Attributes:
        frame: One row per model and number of neurons: ``model``, ``k``, ``before`` and ``after`` (mean sizes of the
            coefficients, counted along their sign in the other model), ``increase`` (a share), ``control`` (the
            increase under a random change as large as the adapter; NaN for what is no adapter).
        accuracy: The share of cases answered, by model, ``"original"`` first; of a control as
            ``"NAME, random change"``.
        cases: How many cases.
    """

    frame: pd.DataFrame
    accuracy: Mapping[str, float]
    cases: int

    def wide(self) -> pd.DataFrame:
        """Return the increase: one row per model, one column per number of neurons."""
        wide = self.frame.pivot(index="model", columns="k", values="increase")
        return wide.reindex(index=self.frame["model"].drop_duplicates(), columns=self.frame["k"].drop_duplicates())

    def table(self) -> Table:
        """Return Table 10 and each model's accuracy, under each adapter's row that of its control."""
        wide = self.wide()
        controls = self.frame.pivot(index="model", columns="k", values="control").reindex_like(wide)
        rows: list[tuple[str, ...]] = []
        for name, line, control in zip(wide.index, wide.to_numpy().tolist(), controls.to_numpy().tolist(), strict=True):
            rows.append(self._row(str(name), line))
            if control_name(str(name)) in self.accuracy:
                rows.append(self._row(control_name(str(name)), control))
        headings = ("model", "accuracy", *(f"top {k}" for k in wide.columns))
        original = f"accuracy of the original {100 * self.accuracy[ORIGINAL]:.1f} %"
        return Table(headings, rows, f"coefficient increase; {plural(self.cases, 'case')}, {original}")

    def _row(self, name: str, increases: Sequence[float]) -> tuple[str, ...]:
        return (name, f"{100 * self.accuracy[name]:.1f} %", *(f"{100 * x:+.1f} %" for x in increases))


@typechecked
@torch.no_grad()
def coefficient_increase(
    model: Any,
    others: Mapping[str, Any],
    cases: Sequence[Case],
    *,
    ks: Sequence[int] = _KS,
    layers: Sequence[int] | None = None,
    contrast: Target | None = None,
    control: bool = True,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> CoefficientIncrease:
    """Compare fine-tuned models with the original, neuron by neuron (paper 3, Table 10), beside a random change.

    An increase that is no larger than its control's says nothing of what was learned.

    Args:
        model: The original model.
        others: By name, adapters of it, or models of the same shape: any fine-tune of your own.
        cases: The cases.
        ks: The numbers of neurons.
        layers: The layers searched; all by default.
        contrast: If given, neurons are compared by ``log p(answer) - log p(contrast)``: a token, or one for each case.
        control: Whether each adapter is compared with a random one, which doubles the cost. Models have no control.
        batch_size: Cases run together.
        seed: Of the random changes.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If there is no case or no other model, a ``k`` is out of range, models are not of one shape, or two
            tokenizers do not share a token of the cases.
        IndexError: If a layer is out of range or named twice.

    Examples:
        >>> from tl_neuron_attr import cna, demo
        >>> model = demo.load()
        >>> train, test = cna.arithmetic_set(model, test=8, train=64)
        >>> adapter = cna.train_lora(model, train, layer=2, steps=3, progress=False)
        >>> found = cna.coefficient_increase(model, {"layer 2": adapter}, test, ks=[10], progress=False)
        >>> found.wide().shape
        (1, 1)
    """
    require_cases(cases)
    if not others:
        raise ValueError("others is empty: give at least one adapter or model")
    require_tokens_shared(model, others, cases)
    accuracy = {ORIGINAL: share_answered(model, cases)}
    options: dict[str, Any] = {
        "layers": layers,
        "contrast": None if contrast is None else one_each(model, contrast, len(cases), "contrast"),
        "batch_size": batch_size,
        "progress": progress,
    }
    rows: list[dict[str, float | int | str]] = []
    for name, other in others.items():
        accuracy[name] = share_answered(model, cases, other)
        sums, chance = _summed_sizes(model, other, cases, ks, what=name, **options), dict.fromkeys(ks, float("nan"))
        if control and isinstance(other, Adapter):
            drawn, named = random_adapter(other, seed), control_name(name)
            accuracy[named] = share_answered(model, cases, drawn)
            of_drawn = _summed_sizes(model, drawn, cases, ks, what=named, **options)
            chance = {k: _increase(*total.tolist()) for k, total in of_drawn.items()}
        for k, (size, before, after) in ((k, total.tolist()) for k, total in sums.items()):
            means = {"before": before / (k * len(cases)), "after": after / (k * len(cases))}
            row = {"model": name, "k": k, **means, "increase": _increase(size, before, after), "control": chance[k]}
            rows.append(row)
    return CoefficientIncrease(pd.DataFrame(rows), accuracy, len(cases))


def control_name(name: str) -> str:
    """Return what the random change beside an adapter is called.

    Examples:
        >>> control_name("layer 2")
        'layer 2, random change'
    """
    return f"{name}, random change"


def _summed_sizes(
    model: Any, other: Any, cases: Sequence[Case], ks: Sequence[int], **options: Any
) -> dict[int, Float[Tensor, "3"]]:
    """Return :func:`sizes` summed over cases, of the neurons that the other model uses more."""
    sums = {k: torch.zeros(3, dtype=torch.float64) for k in ks}
    for changed in paired_changes(plain(model), run_of(model, other), cases, max(ks), largest=False, **options):
        for k in ks:
            top = changed.neurons.top(k)
            sums[k] += sizes(top.coefficient, changed.other_coefficients(top)).cpu()
    return sums


def _increase(size: float, before: float, after: float) -> float:
    return (after - before) / size if size else float("nan")


def run_of(model: Any, other: Any) -> Run:
    """Return how to run another model, or the model with an adapter."""
    if not isinstance(other, Adapter):
        return plain(other)

    def run(tokens: Int[Tensor, "batch pos"]) -> ActivationCache:
        with other.attached(model):
            return plain(model)(tokens)

    return run


def share_answered(model: Any, cases: Sequence[Case], other: Any = None) -> float:
    """Return the share of cases that the model answers, or another, or the model with an adapter."""
    if isinstance(other, Adapter):
        with other.attached(model):
            return share_answered(model, cases)
    right = answered(model if other is None else other, cases)
    return sum(right) / len(right)


def sizes(before: Float[Tensor, "case k"], after: Float[Tensor, "case k"]) -> Float[Tensor, "3"]:
    """Return sums of the sizes before, and of both coefficients along the sign of the one after.

    Examples:
        >>> sizes(torch.tensor([[-2.0, 0.0]]), torch.tensor([[3.0, 1.0]])).tolist()
        [2.0, -2.0, 4.0]
    """
    before, after = before.double(), after.double()
    return torch.stack([before.abs().sum(), (before * after.sign()).sum(), after.abs().sum()])


def require_tokens_shared(model: Any, others: Mapping[str, Any], cases: Sequence[Case]) -> None:
    """Refuse other models to which a token of the cases stands for something else.

    Raises:
        ValueError: Naming the token.
    """
    tokens = torch.tensor(sorted({token for case in cases for token in (*case.tokens, case.answer)}))
    for other in others.values():
        if not isinstance(other, Adapter):
            require_shared(model, other, tokens, "token")
