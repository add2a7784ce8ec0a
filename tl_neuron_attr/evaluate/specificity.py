"""What zeroing one prompt's neurons takes from its own answer, and from the answers of other types of knowledge.

Random neurons, the control of paper 1, cost nothing anywhere. Neurons that every prompt needs cost every prompt: what
is left after other types' loss is taken off is what a list holds of the fact asked.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from tl_neuron_attr.evaluate.examine import measured_outcomes, widest_mlp
from tl_neuron_attr.evaluate.select import AskedPrompt
from tl_neuron_attr.model.components import Component
from tl_neuron_attr.model.intervene import ablate

LISTS = ("value", "query")
OTHERS = 5
"""Prompts of other types on which a prompt's neurons are zeroed, one of each: paper 1 has five other types."""

_LOG_PROB = 2  # where an outcome holds the log-probability


def reference_prompts(types: Mapping[int, str]) -> dict[int, list[int]]:
    """Return, for each prompt, prompts of the types that follow its own, each type's in turn.

    Examples:
        >>> reference_prompts({0: "capital", 1: "capital", 2: "sport", 3: "sport"})
        {0: [2], 1: [3], 2: [0], 3: [1]}
    """
    groups: dict[str, list[int]] = {}
    for i, kind in types.items():
        groups.setdefault(kind, []).append(i)
    names = list(groups)
    return {
        i: [
            groups[other][groups[kind].index(i) % len(groups[other])]
            for step in range(1, min(OTHERS + 1, len(names)))
            for other in [names[(names.index(kind) + step) % len(names)]]
        ]
        for i, kind in types.items()
    }


def common_numbers(records: Sequence[Mapping[str, Tensor]]) -> dict[str, set[int]]:
    """Return, by kind, the numbers of the neurons on more than half of all prompts' lists."""
    found: dict[str, set[int]] = {}
    for kind in LISTS:
        met = Counter(n for record in records for n in record[f"{kind}_neurons"].tolist())
        found[kind] = {number for number, count in met.items() if count > len(records) / 2}
    return found


def drops(
    model: Any,
    neurons: Mapping[str, Sequence[int]],
    common: Mapping[str, set[int]],
    prompts: Sequence[tuple[AskedPrompt, float]],
) -> dict[str, Tensor]:
    """Return what zeroing each kind's neurons, all of them and those not common, takes from each prompt, in nats.

    Args:
        model: The model.
        neurons: By kind, the MLP neurons, numbered through the layers.
        common: By kind, the neurons common to most prompts.
        prompts: The prompts with their answers, the neurons' own first, and each answer's untouched log-probability.
    """
    width = widest_mlp(model)
    sets = [chosen for kind in LISTS for chosen in (neurons[kind], [n for n in neurons[kind] if n not in common[kind]])]
    found = torch.zeros(len(sets), len(prompts))
    some = [at for at, chosen in enumerate(sets) if chosen]
    components: list[list[Component]] = [[("mlp", *divmod(n, width)) for n in sets[at]] for at in some]
    with ablate(model, components):
        for j, (asked, before) in enumerate(prompts):
            tokens = asked.tokens[None].expand(len(some), -1)
            found[some, j] = before - measured_outcomes(model, tokens, asked.target)[:, _LOG_PROB].cpu()
    return {"drops": found, "counts": torch.tensor([len(chosen) for chosen in sets])}


def tidy_drops(found: Mapping[str, Tensor]) -> pd.DataFrame:
    """Return one row per kind, with and without common neurons: how many were zeroed, and what was lost."""
    rows = [(kind, common) for kind in LISTS for common in (True, False)]
    return pd.DataFrame(
        {
            "kind": [kind for kind, _ in rows],
            "common": [common for _, common in rows],
            "neurons": found["counts"].tolist(),
            "own": found["drops"][:, 0].tolist(),
            "others": found["drops"][:, 1:].mean(1).tolist(),
        }
    )
