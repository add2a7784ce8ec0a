"""The smallest set of heads without which a model can no longer do the task: searched greedily, against random sets.

Heads that carry the same are redundant: each alone can be zeroed without loss. So sets are searched: in every step the
head is added whose zeroing leaves the right label the least probability, a smooth stand-in for accuracy. The search
sees one half of the prompts and is measured on the other.
"""

import random
from collections.abc import Sequence
from typing import Any

import pandas as pd

from tl_neuron_attr.incontext.icl_prompt import IclPrompt
from tl_neuron_attr.incontext.outcomes import Among, accuracy, outcomes_without
from tl_neuron_attr.model.components import Head


def greedy_search(
    model: Any,
    seen: Sequence[IclPrompt],
    measured: Sequence[IclPrompt],
    candidates: Sequence[Head],
    others: Sequence[Head],
    *,
    largest: int,
    chance: float,
    among: Among,
    random_sets: int,
    batch_size: int,
    seed: int,
    progress: bool,
) -> pd.DataFrame:
    """One head a step, until accuracy is no longer surely above chance or ``largest`` heads are zeroed (none for 0).

    Args:
        model: The model.
        seen: The prompts the search sees.
        measured: The prompts its sets are measured on.
        candidates: The heads it chooses from.
        others: The heads that random sets of the same size are drawn from.
        largest: The largest set.
        chance: Accuracy by chance.
        among: What an answer competes with.
        random_sets: How many random sets a step.
        batch_size: Prompts run together, copies counted.
        seed: Of the random sets.
        progress: Whether to show a progress bar.

    Returns:
        A row a step: ``size``, ``layer``, ``head`` (added last), ``accuracy`` with ``low`` and ``high``, ``log_prob``,
        and ``random``, ``random_low``, ``random_high``: mean, least and greatest accuracy of random sets of that size.
    """
    rng = random.Random(seed)
    chosen: list[Head] = []
    rows: list[dict[str, float]] = []
    for size in range(1, min(largest, len(candidates)) + 1):
        left = [head for head in candidates if head not in chosen]
        tried = outcomes_without(
            model, seen, [[*chosen, h] for h in left], batch_size=batch_size, progress=progress, what=f"sets of {size}"
        )
        chosen.append(left[int(tried.prob(among).mean(-1).argmin())])
        draws = [rng.sample(list(others), min(size, len(others))) for _ in range(random_sets)]
        found = outcomes_without(model, measured, [chosen, *draws], batch_size=batch_size)
        drawn = found[1:].right(among).double().mean(-1)
        step = accuracy(found[0], measured[0].labels, among=among)
        rows.append(
            {"size": size, "layer": chosen[-1][0], "head": chosen[-1][1]}
            | {name: step[name] for name in ("accuracy", "low", "high", "log_prob")}
            | {"random": float(drawn.mean()), "random_low": float(drawn.min()), "random_high": float(drawn.max())}
        )
        if step["low"] <= chance:
            break
    return pd.DataFrame(rows)
