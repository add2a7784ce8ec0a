"""The facts a real model knows, of all types in turn."""

from itertools import chain, zip_longest
from typing import Any

from tl_neuron_attr.evaluate import real_facts, select
from tl_neuron_attr.evaluate.select import KEPT

Fact = tuple[str, int, str]


def facts_known(model: Any, n: int) -> list[Fact]:
    """Return ``n`` prompts with answers of one token that paper 1 would select, with that token and the type."""
    known = select(model, [prompt for group in real_facts().values() for prompt in group])
    known = known[(known["status"] == KEPT) & (known["target_tokens"] == 1)]
    groups = [
        list(zip(group["prompt"], group["target_id"], group["type"], strict=True))
        for _, group in known.groupby("type", sort=False)
    ]
    return [fact for fact in chain.from_iterable(zip_longest(*groups)) if fact is not None][:n]
