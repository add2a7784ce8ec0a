"""The accuracy of whole answers: every token right, not only the next one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.cna.answered import answered
from tl_neuron_attr.cna.arithmetic_cases import Case
from tl_neuron_attr.results.intervals import ENDS, interval, named_interval, shown_interval
from tl_neuron_attr.results.table import PrintsAsTable, Table


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class WholeAnswers(PrintsAsTable):
    """How many answers are right, token by token and whole.

    Attributes:
        frame: One row per answer: ``group``, ``tokens`` (their number), ``first`` (whether the first token is right),
            ``whole`` (whether all are), ``shared`` (whether another answer of the group begins with the same token, so
            that the first does not tell them apart).
    """

    frame: pd.DataFrame

    def summary(self) -> pd.DataFrame:
        """Return one row per group: how many answers, of how many tokens, how many begin alike, and both accuracies.

        Columns: ``group``, ``answers``, ``tokens``, ``shared``, and the shares ``first`` and ``whole``, each with
        ``_low`` and ``_high`` of its 95 % bootstrap interval.
        """
        rows: list[dict[str, Any]] = []
        for group, some in self.frame.groupby("group", sort=False):
            row = {
                "group": group,
                "answers": len(some),
                "tokens": some["tokens"].mean(),
                "shared": some["shared"].sum(),
            }
            for name in ("first", "whole"):
                row |= named_interval(name, interval(some[name].astype(float)))
            rows.append(row)
        return pd.DataFrame(rows)

    def table(self) -> Table:
        """Return the accuracies by group, and how many answers begin with another one's token."""
        rows = [
            (r["group"], r["answers"], r["tokens"], r["shared"], *(_share(r, name) for name in ("first", "whole")))
            for r in self.summary().to_dict("records")
        ]
        headings = ("group", "answers", "tokens, mean", "begin as another", "first token right, %", "all right, %")
        return Table(headings, rows, "an answer that begins as another one is not told from it by its first token")


@typechecked
def whole_answers(model: Any, cases: Sequence[Case], *, batch_size: int = 256) -> WholeAnswers:
    """Return how many answers a model gives whole: each token the likeliest, after the prompt and the tokens before it.

    Choosing the likeliest token each time, the model writes exactly these answers; what it writes behind them is not
    looked at. Cases whose tokens without the answer's are the same are one answer.

    Args:
        model: The model.
        cases: All cases of each problem, as :func:`~tl_neuron_attr.cna.arithmetic_cases` gives them.
        batch_size: The most cases in one forward pass.

    Raises:
        ValueError: If there is no case, or the logits hold NaN or Inf.

    Examples:
        >>> from tl_neuron_attr import cna, demo
        >>> model = demo.load()
        >>> cases = cna.arithmetic_cases(model, cna.problems("+", digits=2, n=20))
        >>> found = whole_answers(model, cases).summary()
        >>> found.group[0], bool(found.whole[0] > 0.8)
        ('2D+', True)
    """
    right = answered(model, cases, batch_size=batch_size)
    tokens = [(case.group, case.tokens[: len(case.tokens) - case.given], case.given) for case in cases]
    each = pd.DataFrame(tokens, columns=["group", "prompt", "given"])
    each = each.assign(answer=[case.answer for case in cases], right=right).sort_values("given", kind="stable")
    answers = each.groupby(["group", "prompt"], sort=False)
    found = answers.agg(tokens=("answer", "size"), first=("right", "first"), whole=("right", "all")).reset_index()
    begins, texts = answers["answer"].first().to_numpy(), answers["answer"].agg(tuple).to_numpy()
    different = found.assign(begins=begins, text=texts).groupby(["group", "begins"])["text"].transform("nunique")
    return WholeAnswers(found.assign(shared=different > 1).drop(columns="prompt"))


def _share(row: dict[Any, Any], name: str) -> str:
    return shown_interval(*(100 * row[f"{name}{end}"] for end in ENDS), spec=".1f")
