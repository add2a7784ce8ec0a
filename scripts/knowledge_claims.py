"""Paper 1's claims as one number per prompt each, with intervals over prompts and over facts."""

from collections.abc import Iterator, Sequence

import pandas as pd

from tl_neuron_attr.evaluate import KnowledgeStudy
from tl_neuron_attr.results.intervals import change_interval, interval, shown_interval

ATTENTION_LED = ("language", "capital", "country")
"""The types in which paper 1 finds more in attention than in MLPs (Table 3)."""

EARLY = 0.6
"""The part of the depth that holds the query neurons (paper 1, Figure 8)."""


def claims(study: KnowledgeStudy, facts: Sequence[str]) -> pd.DataFrame:
    """Return each claim's measure, every prompt counting once and then every fact; differences are paired by prompt.

    Args:
        study: The study.
        facts: The fact of each prompt of its selection.
    """
    fact = pd.Series(facts, study.selection.index)
    rows = [
        {
            "measure": name,
            "prompts": len(values),
            "mean over prompts": shown_interval(*interval(values), spec=spec),
            "facts": fact[values.index].nunique(),
            "mean over facts": shown_interval(*interval(values.groupby(fact).mean()), spec=spec),
        }
        for name, values, spec in _measures(study)
    ]
    return pd.DataFrame([*rows, *_lost(study, fact)])


def wordings(study: KnowledgeStudy, facts: Sequence[str]) -> pd.DataFrame:
    """Return how far two wordings of a fact lie apart in what zeroing their own MLP neurons takes, and two facts."""
    fact = pd.Series(facts, study.selection.index, name="fact")
    rows = []
    for kind, group in study.specificity[study.specificity["common"]].groupby("kind", sort=False):
        own = group[["prompt", "type", "own"]].join(fact, on="prompt")
        pairs = own.merge(own, on="type", suffixes=("", "_other"))
        pairs = pairs[pairs["prompt"] < pairs["prompt_other"]]
        gaps = (pairs["own"] - pairs["own_other"]).abs()
        same = pairs["fact"] == pairs["fact_other"]
        rows.append(
            {
                "zeroed": f"{kind} neurons",
                "facts worded twice": same.sum(),
                "mean loss, nats": pairs.loc[same, ["own", "own_other"]].to_numpy().mean(),
                "mean gap of two wordings, nats": gaps[same].mean(),
                "of two facts of a type, nats": gaps[~same].mean(),
            }
        )
    return pd.DataFrame(rows)


def _measures(study: KnowledgeStudy) -> "Iterator[tuple[str, pd.Series[float], str]]":
    """Yield a name, a value for each prompt by its number, and how to write it."""
    sums = study.layers.groupby(["type", "prompt", "site"])["score"].sum().unstack("site")
    for kind in ATTENTION_LED:
        of_type = sums.loc[kind]
        yield f"{kind}: attention less MLP layers, nats (Table 3)", of_type["attn"] - of_type["mlp"], "+.1f"
    for (kind, common), group in study.specificity.groupby(["kind", "common"], sort=False):
        if common:
            here = group.set_index("prompt")
            yield f"{kind} neurons: own answer less other types', nats", here["own"] - here["others"], ".2f"
    yield "best heads of a type: own type less others, nats (Table 11)", _own_heads(study), ".2f"
    yield f"query neurons in the first {EARLY:.0%} of the layers, % (Figure 8)", _early(study), ".0f"


def _own_heads(study: KnowledgeStudy) -> "pd.Series[float]":
    """Return how much more a prompt loses by its own type's heads than by those of the other types, on average."""
    left = study.cross.pivot(index="prompt", columns="zeroed", values="log_prob")
    own = study.cross.drop_duplicates("prompt").set_index("prompt")["type"]
    zeroed = left.drop(columns="untouched")
    mine = pd.Series({prompt: zeroed.loc[prompt, kind] for prompt, kind in own.items()})
    return (zeroed.sum(axis=1) - mine) / (zeroed.shape[1] - 1) - mine


def _early(study: KnowledgeStudy) -> "pd.Series[float]":
    """Return the share of early ones of each prompt's query neurons that are no value neurons, per cent."""
    cut = EARLY * study.sizes.set_index("name")["value"]["n_layers"]
    kinds = study.neurons.groupby(["prompt", "layer", "index"])["kind"].agg(set).reset_index()
    only = kinds[kinds["kind"] == {"query"}]
    return 100 * (only["layer"] < cut).groupby(only["prompt"]).mean()


def _lost(study: KnowledgeStudy, fact: "pd.Series[str]") -> Iterator[dict[str, object]]:
    """Yield the share of the mean probability that zeroing neurons takes."""
    left = study.outcomes.pivot(index="prompt", columns="zeroed", values="prob")
    by_fact = left.groupby(fact).mean()
    for kind in ("value", "query"):
        over = {
            name: shown_interval(
                *(-x for x in _outer(change_interval(f["untouched"].to_numpy(), f[kind].to_numpy()))), spec=".0f"
            )
            for name, f in (("prompts", left), ("facts", by_fact))
        }
        yield {
            "measure": f"{kind} neurons zeroed: probability lost, % (Tables 7, 13)",
            "prompts": len(left),
            "mean over prompts": over["prompts"],
            "facts": len(by_fact),
            "mean over facts": over["facts"],
        }


def _outer(found: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return a change with its ends in the order that its loss has them."""
    change, low, high = found
    return change, high, low
