"""Whether a head serves one label more than the others: the paper's "fooheads" and "barheads" (Table 3; second-hand).

In Llama, zeroing fooheads costs accuracy where foo is right and raises it where bar is; barheads the reverse. Here a
head leans to a label if zeroing it costs prompts of that label more log-odds of the right answer than the other
prompts, by more than a 95 % interval. A head that serves all alike leans to none.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from tl_neuron_attr.incontext.outcomes import Outcomes
from tl_neuron_attr.model.components import Head
from tl_neuron_attr.results.intervals import Sample, difference_interval


def label_heads(before: Outcomes, without: Outcomes, heads: Sequence[Head], labels: Sequence[str]) -> pd.DataFrame:
    """A row a head: ``layer``, ``head``, ``label`` (or empty), ``more``, ``low``, ``high``.

    ``more`` is how many nats of log-odds more the head is worth to prompts whose right label is ``label`` than to the
    others; where it leans to none, for the label it comes nearest to leaning to.

    Args:
        before: Outcomes of the untouched model.
        without: Outcomes with each head zeroed, a row a head.
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
    word, more, low, high = max(found, key=lambda row: row[2])
    return {"label": word if low > 0 else "", "more": more, "low": low, "high": high}
