"""The facts a real model knows, of all types in turn, and which prompts word the same fact."""

import json
from collections.abc import Sequence
from importlib.resources import files
from itertools import chain, zip_longest
from typing import Any

import pandas as pd

from tl_neuron_attr.evaluate import real_facts, select
from tl_neuron_attr.evaluate.select import KEPT

Fact = tuple[str, int, str]


def asked(model: Any) -> pd.DataFrame:
    """Return what ``select`` says of every prompt asked; ``usable``: kept, with an answer of one token."""
    found = select(model, [prompt for group in real_facts().values() for prompt in group])
    return found.assign(usable=(found["status"] == KEPT) & (found["target_tokens"] == 1))


def in_turn(asked: pd.DataFrame, n: int) -> list[Fact]:
    """Return ``n`` usable prompts with their answer's token and their type."""
    groups = [
        list(zip(group["prompt"], group["target_id"], group["type"], strict=True))
        for _, group in asked[asked["usable"]].groupby("type", sort=False)
    ]
    return [fact for fact in chain.from_iterable(zip_longest(*groups)) if fact is not None][:n]


def facts_known(model: Any, n: int) -> list[Fact]:
    """Return ``n`` prompts with answers of one token that paper 1 would select, with that token and the type."""
    return in_turn(asked(model), n)


def worded(prompts: Sequence[str]) -> list[str]:
    """Return the fact that each prompt words: the number of its relation, and the subject."""
    relations = json.loads(files("tl_neuron_attr").joinpath("data/real_facts.json").read_text(encoding="utf-8"))
    facts = {
        template.replace("{}", sample["subject"]): f"{i} {sample['subject']}"
        for i, relation in enumerate(relations)
        for template in relation["prompt_templates"]
        for sample in relation["samples"]
    }
    return [facts[prompt] for prompt in prompts]
