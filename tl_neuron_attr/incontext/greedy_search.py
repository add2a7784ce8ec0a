"""A greedy search for the smallest set of heads without which a model can no longer do the task.

Redundant heads can each be zeroed without loss, so sets are searched. Each step adds the head whose zeroing leaves the
right label the lowest probability, a smooth stand-in for accuracy. The search sees one half of the prompts and is
measured on the other, beside random sets of the same size. The search is ours, not the paper's.
"""

import random
from collections.abc import Sequence
from typing import Any

import pandas as pd

from tl_neuron_attr.incontext.icl_prompt import IclPrompt
from tl_neuron_attr.incontext.outcomes import Among, accuracy, outcomes_without
from tl_neuron_attr.model.components import Head

_MEASURES = ("accuracy", "low", "high", "in_vocabulary", "among_labels", "log_prob", "log_odds")


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
    """Zero one more head per step, until accuracy is not above chance by its interval or ``largest`` heads are zeroed.

    Args:
        model: The model.
        seen: The prompts that the search sees.
        measured: The prompts on which its sets are measured.
        candidates: The heads to choose from.
        others: The heads from which random sets of the same size are drawn.
        largest: The size of the largest set; 0 for no search.
        chance: The accuracy of always giving the most frequent label.
        among: What an answer competes with.
        random_sets: The number of random sets per step.
        batch_size: The most prompts in one forward pass, counting copies.
        seed: The seed of the random sets.
        progress: Whether to show a progress bar.

    Returns:
        One row per step: ``size``, ``layer``, ``head`` (added last), ``accuracy`` with ``low`` and ``high``,
        ``in_vocabulary``, ``among_labels``, ``log_prob``, ``log_odds``, and ``random``, ``random_low``,
        ``random_high``: the mean, least and greatest accuracy of random sets of that size.
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
            | {name: step[name] for name in _MEASURES}
            | {"random": float(drawn.mean()), "random_low": float(drawn.min()), "random_high": float(drawn.max())}
        )
        if not step["low"] > chance:
            break
    return pd.DataFrame(rows)
