"""Accuracy over a problem set with each head zeroed: the arithmetic heads of paper 3, Tables 1 to 3."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor
from tqdm import tqdm

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.cna.arithmetic_cases import Case, case_batches, require_cases
from tl_neuron_attr.cna.head_effects import ZEROED
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.components import Head, NamedHeads, head_name, required_heads
from tl_neuron_attr.model.padding import require_unpadded
from tl_neuron_attr.model.rerun import rerun
from tl_neuron_attr.numerics.increase import MAX_BYTES
from tl_neuron_attr.results.intervals import interval, shown_interval
from tl_neuron_attr.results.table import PrintsAsTable, Table
from tl_neuron_attr.results.token_text import quoted

_UNTOUCHED = "untouched"
"""The name of the run without a head zeroed."""

_ALL = "all"
"""The name of all cases together."""


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class HeadAccuracy(PrintsAsTable):
    """The share of cases answered right with each head zeroed, by group and kind of case.

    Attributes:
        frame: One row per group, kind and head: ``group``, ``kind``, ``head`` (``"L3H2"``, or ``"untouched"``),
            ``layer`` and ``index`` (-1 for the untouched model), ``cases``, ``accuracy``.
        chance: By group, and for ``"all"`` cases, the accuracy of always giving the commonest answer; 0 where all have
            one answer, or where it is not known.
    """

    frame: pd.DataFrame
    chance: Mapping[str, float] = field(default_factory=dict[str, float])

    def by_group(self) -> pd.DataFrame:
        """Return paper 3, Table 1: one row per group and ``"all"``, one column per head, untouched first."""
        return self._wide(self.frame, "group")

    def decrease(self) -> pd.DataFrame:
        """Return the share of the untouched accuracy that zeroing each head takes away (paper 3, Table 2)."""
        return _decrease(self.by_group())

    def decrease_by_kind(self) -> pd.DataFrame:
        """Return the same by group and kind of case: memorised and carried digits apart (paper 3, Table 3)."""
        apart = self.frame[self.frame["kind"] != ""]
        named = apart.assign(group=apart["group"] + " " + apart["kind"])
        return _decrease(self._wide(named, "group"))

    @typechecked
    def does_task(self, group: str | None = None) -> bool:
        """Return whether the untouched model's accuracy, in a group or all cases, is above chance by its 95 % interval.

        Raises:
            ValueError: If there is no such group.
        """
        return self._reached(group)[1] > self.chance.get(group or _ALL, 0.0)

    @typechecked
    def ranked(self, group: str | None = None) -> list[Head]:
        """Return heads by how much zeroing them lowers a group's accuracy, largest first; that of all cases by default.

        Raises:
            ValueError: If there is no such group, or the model does not do its cases: no head holds what is not there.
        """
        if not self.does_task(group):
            raise ValueError(
                f"the model does not do {'these cases' if group in (None, _ALL) else group}, so no head is named: "
                f"{self._says_reached(group)}\nchoose cases it answers: a template, or solved problems in front "
                "(cna.arithmetic_cases(template=, shots=))"
            )
        wide = self.by_group()
        heads = self.frame[self.frame["head"] != _UNTOUCHED].drop_duplicates("head")
        named = [(int(row["layer"]), int(row["index"])) for row in heads.to_dict("records")]
        accuracy: Any = wide.loc[wide.index[-1] if group is None else group].to_dict()
        return sorted(named, key=lambda head: float(accuracy[head_name(*head)]))

    @typechecked
    def table(self, k: int = 5) -> Table:
        """Return paper 3, Table 1, for the ``k`` heads whose zeroing lowers the accuracy over all cases most.

        No heads are named where the model does not do the cases; groups that it does not do are named below.

        Raises:
            ValueError: If ``k`` is below 1.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        wide = self.by_group()
        undone = [group for group in wide.index if not self.does_task(group)]
        if not self.does_task():
            rows = [(group, self._says_reached(group)) for group in wide.index]
            return Table(("group", "accuracy"), rows, "the model does not do these cases, so no head is named")
        best = [_UNTOUCHED, *(head_name(layer, head) for layer, head in self.ranked()[:k])]
        counts = self.frame[self.frame["head"] == _UNTOUCHED].groupby("group")["cases"].sum()
        lines = zip(wide.index.tolist(), wide[best].to_numpy().tolist(), strict=True)
        rows = [(group, counts.get(group, counts.sum()), *(f"{100 * a:.1f}" for a in line)) for group, line in lines]
        lines = [f"the model does not do {group}: {self._says_reached(group)}" for group in undone]
        return Table(("group", "cases", *best), rows, "\n".join(["accuracy in % with one head zeroed", *lines]))

    def _reached(self, group: str | None) -> tuple[float, float, float, int]:
        """Return the untouched accuracy with its interval, and the number of cases.

        Raises:
            ValueError: If there is no such group.
        """
        untouched = self.frame[self.frame["head"] == _UNTOUCHED]
        groups = untouched["group"].unique().tolist()
        if group not in (None, _ALL, *groups):
            raise ValueError(f"group must be one of {', '.join([*groups, _ALL])}, got {quoted(str(group))}")
        mine = untouched if group in (None, _ALL) else untouched[untouched["group"] == group]
        n, right = int(mine["cases"].sum()), round(float((mine["accuracy"] * mine["cases"]).sum()))
        return *interval(pd.Series([1.0] * right + [0.0] * (n - right))), n

    def _says_reached(self, group: str | None) -> str:
        accuracy, low, high, n = self._reached(group)
        by_chance = 100 * self.chance.get(group or _ALL, 0.0)
        reached = shown_interval(*(100 * value for value in (accuracy, low, high)), spec=".1f", unit=" %")
        return f"{reached} of {n}, by chance {by_chance:.1f} %"

    @staticmethod
    def _wide(frame: pd.DataFrame, by: str) -> pd.DataFrame:
        """Return accuracies over the cases of each value of ``by``, and over all, by head."""
        right = frame.assign(right=frame["accuracy"] * frame["cases"])
        both = pd.concat([right, right.assign(**{by: "all"})]) if frame[by].nunique() > 1 else right
        sums = both.groupby([by, "head"], sort=False)[["right", "cases"]].sum()
        shares: pd.DataFrame = (sums["right"] / sums["cases"]).reset_index(name="accuracy")
        wide = shares.pivot(index=by, columns="head", values="accuracy")
        return wide.reindex(index=both[by].drop_duplicates(), columns=frame["head"].drop_duplicates())


@typechecked
@torch.no_grad()
def head_accuracy(
    model: Any,
    cases: Sequence[Case],
    *,
    heads: NamedHeads | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool = True,
) -> HeadAccuracy:
    """Zero each head in each case and count the answers that are still right (paper 3, Tables 1 and 18).

    An answer is right if it is the likeliest of all tokens. Where the model does not do a group of cases (its accuracy
    is not above that of the commonest answer by its 95 % interval), :meth:`HeadAccuracy.ranked` names no head of it.

    Args:
        model: The model.
        cases: The cases, from :func:`~tl_neuron_attr.cna.arithmetic_cases` or made by hand.
        heads: ``(layer, head)`` pairs; all heads by default.
        max_bytes: A cap on the working set.
        progress: Whether to show a progress bar.

    Raises:
        IndexError: If a head is out of range or named twice.
        ValueError: If there is no case or no head, a case is or may be padded, or the logits hold NaN or Inf.

    Examples:
        >>> from tl_neuron_attr import cna, demo
        >>> model = demo.load()
        >>> cases = cna.arithmetic_cases(model, cna.problems("*", digits=1, n=20))
        >>> found = head_accuracy(model, cases, progress=False)
        >>> float(found.by_group().loc["1D*", "untouched"]) > 0.9
        True
    """
    require_cases(cases)
    wanted = required_heads(model, heads, fix=ZEROED)
    device = dimensions.device_of(model)
    answers = torch.tensor([case.answer for case in cases], device=device)
    sets = [[], *([head] for head in wanted)]
    right = torch.zeros(len(cases), len(sets), dtype=torch.bool)
    with tqdm(total=len(sets) * len(cases), desc="heads zeroed", unit="run", disable=not progress) as bar:
        for batch in case_batches(cases, batch_size=len(cases)):
            at, tokens = torch.tensor(batch.indices, device=device), batch.tokens.to(device)
            require_unpadded(model, tokens, torch.full((len(at),), tokens.shape[1] - 1, device=device))
            for runs in rerun(model, tokens, sets, max_bytes=max_bytes, bar=bar):
                case = at[runs.prompts]
                right[case.cpu(), runs.sets.cpu()] = (runs.logits.argmax(-1) == answers[case]).cpu()
    return HeadAccuracy(_counted(cases, wanted, right), _chance(cases))


def _chance(cases: Sequence[Case]) -> dict[str, float]:
    """Return, by group and of all cases, the share of the commonest answer; 0 where it is the only one.

    Examples:
        >>> _chance([Case((1,), 7, "a"), Case((2,), 7, "a"), Case((3,), 8, "a"), Case((4,), 9, "b")])
        {'a': 0.6666666666666666, 'b': 0.0, 'all': 0.5}
    """
    groups = dict.fromkeys(case.group for case in cases)
    answers = {group: [case.answer for case in cases if case.group == group] for group in groups}
    answers[_ALL] = [case.answer for case in cases]
    counts = {group: Counter(each) for group, each in answers.items()}
    return {group: max(n.values()) / n.total() if len(n) > 1 else 0.0 for group, n in counts.items()}


def _counted(cases: Sequence[Case], heads: Sequence[Head], right: Bool[Tensor, "case head"]) -> pd.DataFrame:
    """Return one row per group, kind and head; the first column of ``right`` is the untouched model's."""
    labels = pd.DataFrame({"group": [case.group for case in cases], "kind": [case.kind for case in cases]})
    names = [(_UNTOUCHED, -1, -1), *((head_name(layer, head), layer, head) for layer, head in heads)]
    counted: list[pd.DataFrame] = []
    for (name, layer, index), values in zip(names, right.unbind(1), strict=True):
        of_head = labels.assign(right=values.numpy()).groupby(["group", "kind"], sort=False)["right"]
        counts = of_head.agg(["size", "mean"]).reset_index().rename(columns={"size": "cases", "mean": "accuracy"})
        counted.append(counts.assign(head=name, layer=layer, index=index))
    return pd.concat(counted, ignore_index=True)


def _decrease(accuracy: pd.DataFrame) -> pd.DataFrame:
    """Return decreases relative to the untouched model; NaN where that is never right."""
    if accuracy.empty:
        return accuracy
    base = accuracy[_UNTOUCHED]
    return accuracy.drop(columns=_UNTOUCHED).rsub(base, axis=0).div(base.where(base > 0), axis=0)
