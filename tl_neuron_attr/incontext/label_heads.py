"""Heads that serve one label more than the others: "fooheads" and "barheads" (paper 2, Table 3; second-hand).

In Llama, zeroing fooheads lowers accuracy where foo is right and raises it where bar is; barheads do the reverse. The
test is derived here: a head serves a label if zeroing it costs prompts of that label more log-odds of the right answer
than it costs the other prompts, and the 95 % interval of the difference lies above zero.
"""

from collections.abc import Sequence
from math import inf, isfinite
from typing import Any

import pandas as pd

from tl_neuron_attr.incontext.outcomes import Outcomes
from tl_neuron_attr.model.components import Head
from tl_neuron_attr.results.intervals import Sample, difference_interval


def label_heads(before: Outcomes, without: Outcomes, heads: Sequence[Head], labels: Sequence[str]) -> pd.DataFrame:
    """Return one row per head: ``layer``, ``head``, ``label`` (empty if it serves none), ``more``, ``low``, ``high``.

    ``more`` is the log-odds in nats that zeroing the head costs prompts whose right label is ``label``, minus what it
    costs the others. If the head serves no label, it is that of the label with the greatest ``low``.

    Args:
        before: Outcomes of the untouched model.
        without: Outcomes with each head zeroed, one row per head.
        heads: The heads.
        labels: The label words.
    """
    rows: list[dict[str, Any]] = []
    gold = before.gold.cpu().numpy()
    for (layer, head), after in zip(heads, without.log_odds, strict=True):
        lost = (before.log_odds - after).double().cpu().numpy()
        rows.append({"layer": layer, "head": head} | _strongest_label(lost, gold, labels))
    return pd.DataFrame(rows, columns=["layer", "head", "label", "more", "low", "high"])


def _strongest_label(lost: Sample, gold: Any, labels: Sequence[str]) -> dict[str, Any]:
    found = [(word, *difference_interval(lost[gold == i], lost[gold != i])) for i, word in enumerate(labels)]
    word, more, low, high = max(found, key=lambda row: row[2] if isfinite(row[2]) else -inf)
    return {"label": word if low > 0 else "", "more": more, "low": low, "high": high}
