"""The scripts that measure paper 1's claims on real facts, on frames small enough to work out by hand."""

from types import SimpleNamespace

import pandas as pd
import torch

import tl_neuron_attr as tna
from tl_neuron_attr.evaluate import real_facts


def rows(columns, *values):
    return pd.DataFrame(values, columns=columns.split())


def study():
    """Four prompts of two types: the first two word one fact."""
    kinds = ["capital", "capital", "language", "country"]
    lists = [(k, common) for k in ("value", "query") for common in (True, False)]
    layers = [("attn", 0, 2), ("attn", 1, 2), ("mlp", 0, 1), ("mlp", 1, 1)]
    outcomes = [(i, t, z, p) for i, t in enumerate(kinds) for z, p in (("untouched", 0.5), ("value", 0.25 * (i > 1)))]
    cross = [
        (i, t, z, -1.0 - 3.0 * (z == t) - (z == "country"))
        for i, t in enumerate(kinds)
        for z in ("untouched", "capital", "language", "country")
    ]
    return SimpleNamespace(
        selection=pd.DataFrame({"type": kinds}),
        layers=rows(
            "prompt type site layer score",
            *((i, t, site, layer, score * (i + 1)) for i, t in enumerate(kinds) for site, layer, score in layers),
        ),
        specificity=rows(
            "prompt type kind common own others",
            *((i, t, *chosen, 4.0 + i, 1.0) for i, t in enumerate(kinds) for chosen in lists),
        ),
        outcomes=rows("prompt type zeroed prob", *outcomes, *((i, t, "query", 0.5) for i, t in enumerate(kinds))),
        cross=rows("prompt type zeroed log_prob", *cross),
        neurons=rows(
            "prompt type kind layer index",
            *((i, t, "query", layer, 0) for i, t in enumerate(kinds) for layer in (0, 5, 6, 9)),
            *((i, t, "value", 9, 0) for i, t in enumerate(kinds)),
        ),
        sizes=pd.DataFrame({"name": ["n_layers"], "value": [10.0]}),
    )


def test_claims_count_prompts_and_then_facts(script):
    found = script("knowledge_claims").claims(study(), ["a", "a", "b", "c"]).set_index("measure")
    means = found[["mean over prompts", "mean over facts"]].map(lambda text: float(text.split()[0]))
    assert found["prompts"].tolist()[3:] == [4] * 6 and found["facts"].tolist()[3:] == [3] * 6
    by_hand = {
        "language: attention less MLP layers, nats (Table 3)": [6, 6],
        "capital: attention less MLP layers, nats (Table 3)": [3, 3],
        # own less others: 3, 4, 5, 6; the first two are one fact
        "value neurons: own answer less other types', nats": [4.5, 4.83],
        # the own type's heads take 3 (country 4), the others' 1 on average of country's and .5 where it is own
        "best heads of a type: own type less others, nats (Table 11)": [2.88, 3.0],
        # of layers 0, 5, 6 the first two: the one in layer 9 is a value neuron too
        "query neurons in the first 60% of the layers, % (Figure 8)": [67, 67],
        # .5 falls to 0, 0, .25, .25, by fact to 0, .25, .25
        "value neurons zeroed: probability lost, % (Tables 7, 13)": [75, 67],
        "query neurons zeroed: probability lost, % (Tables 7, 13)": [0, 0],
    }
    assert {name: means.loc[name].tolist() for name in by_hand} == by_hand


def test_wordings_of_a_fact_are_compared_with_each_other_and_facts_of_a_type_too(script):
    four = study()
    four.specificity["type"] = "capital"
    found = script("knowledge_claims").wordings(four, ["a", "a", "b", "b"])
    assert found["facts worded twice"].tolist() == [2, 2]
    assert found["mean loss, nats"].tolist() == [5.5, 5.5]  # 4, 5 and 6, 7
    assert found["mean gap of two wordings, nats"].tolist() == [1.0, 1.0]
    assert found["of two facts of a type, nats"].tolist() == [2.0, 2.0]  # 2, 3, 1, 2


def test_every_real_fact_is_known_by_its_relation_and_subject(script):
    named = script("facts_known").worded([p.prompt for p in real_facts(["capital"])["capital"]][:3])
    assert named[0] == named[1] != named[2]


def test_the_late_score_is_the_papers_in_the_last_tenth_of_the_layers(script):
    scores = script("knowledge_scores")
    model = tna.demo.load()
    tokens = torch.stack([model.to_tokens("The capital of France is")[0]] * 2)
    targets = torch.tensor([model.to_single_token(" Paris"), model.to_single_token(" Rome")])
    _, cache = model.run_with_cache(tokens)
    found = scores.late(model, cache, tokens, targets)
    exact = tna.attribute_mlp_neurons(cache, targets, progress=False)
    last = model.cfg.n_layers - 1
    assert found[:, :last].isinf().all()
    best = exact[:, last].topk(scores.PICKED)
    torch.testing.assert_close(found[:, last].topk(scores.PICKED).values, best.values, atol=1e-4, rtol=0)
    assert torch.equal(found[:, last].topk(scores.PICKED).indices, best.indices)
