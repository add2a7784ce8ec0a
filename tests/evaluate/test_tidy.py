"""Frames of a study from handmade records of single prompts."""

import pandas as pd
import pytest
import torch

from tl_neuron_attr.evaluate.examine import CONDITIONS, EXAMINED
from tl_neuron_attr.evaluate.tidy import SETS, tidy

LAYERS, HEADS, WIDTH = 2, 3, 100


def record(seed):
    g = torch.Generator().manual_seed(seed)
    by_layer = {name: torch.randn(LAYERS, generator=g) for name in EXAMINED if name.endswith(("_attn", "_mlp"))}
    rank = torch.randint(1, 9, (len(CONDITIONS), 1), generator=g).float()
    return by_layer | {
        "heads": torch.randn(LAYERS, HEADS, generator=g),
        "sums": torch.randn(2, len(SETS), generator=g),
        "value_neurons": torch.tensor([107, 3]),
        "query_neurons": torch.tensor([99, 0, 12]),
        "segments": torch.randn(4, generator=g),
        "outcomes": torch.cat([rank, torch.rand(len(CONDITIONS), 2, generator=g)], dim=1),
    }


RECORDS = {0: record(0), 2: record(2)}
CROSS = {2: torch.tensor([[1.0, 0.5, -0.7], [4.0, 0.1, -2.3], [2.0, 0.25, -1.4]])}

SPECIFIC = {2: {"drops": torch.tensor([[3.0, 1.0, 2.0], [1.0, 0.5, 0.5], [4.0, 4.0, 3.0], [2.0, 0.0, 1.0]]),
                "counts": torch.tensor([10, 7, 20, 5])}}  # fmt: skip


@pytest.fixture(scope="module")
def study():
    selection = pd.DataFrame({"type": ["x", "x", "y"]})
    return tidy(selection, RECORDS, CROSS, SPECIFIC, ["x", "y"], WIDTH, {"shared": 5})


def test_scores_stand_in_the_row_of_their_prompt_site_and_layer(study):
    assert len(study.layers) == 2 * 2 * LAYERS
    for row in study.layers.to_dict("records"):
        assert row["score"] == float(RECORDS[row["prompt"]][f"layers_{row['site']}"][row["layer"]])
        assert row["type"] == {0: "x", 2: "y"}[row["prompt"]]
    for row in study.heads.to_dict("records"):
        assert row["score"] == float(RECORDS[row["prompt"]]["heads"][row["layer"], row["head"]])
    for row in study.query_layers.to_dict("records"):
        assert row["score"] == float(RECORDS[row["prompt"]][f"query_{row['of']}_{row['site']}"][row["layer"]])
    for row in study.sums.to_dict("records"):
        assert row["score"] == float(
            RECORDS[row["prompt"]]["sums"][("attn", "mlp").index(row["site"]), SETS.index(row["neurons"])]
        )
    assert (len(study.heads), len(study.query_layers), len(study.sums)) == (2 * 6, 2 * 4 * LAYERS, 2 * 8)


def test_numbered_neurons_are_a_layer_and_an_index_in_their_order(study):
    mine = study.neurons[study.neurons["prompt"] == 2]
    found = list(zip(mine["kind"], mine["place"], mine["layer"], mine["index"], strict=True))
    value, query = (
        [("value", 0, 1, 7), ("value", 1, 0, 3)],
        [("query", 0, 0, 99), ("query", 1, 0, 0), ("query", 2, 0, 12)],
    )
    assert found == value + query


def test_outcomes_stand_under_what_was_zeroed(study):
    for prompt, found in RECORDS.items():
        mine = study.outcomes[study.outcomes["prompt"] == prompt]
        assert mine["zeroed"].tolist() == list(CONDITIONS)
        assert mine[["rank", "prob", "log_prob"]].to_numpy().tolist() == pytest.approx(found["outcomes"].numpy())
        assert mine["reciprocal_rank"].tolist() == pytest.approx([1 / r for r in mine["rank"]])
    assert study.cross["zeroed"].tolist() == ["untouched", "x", "y"]
    assert study.cross["rank"].tolist() == [1, 4, 2] and set(study.cross["prompt"]) == {2}


def test_segments_and_sizes(study):
    for prompt, found in RECORDS.items():
        mine = study.segments[study.segments["prompt"] == prompt].sort_values("point")
        assert mine["point"].tolist() == [0, 1, 2, 3] and mine["log_prob"].tolist() == found["segments"].tolist()
    assert study.sizes.set_index("name")["value"].to_dict() == {"shared": 5, "n_layers": LAYERS}


def test_losses_elsewhere_are_means_over_the_other_prompts(study):
    found = study.specificity
    assert found[["prompt", "type", "kind", "common", "neurons", "own", "others"]].to_numpy().tolist() == [
        [2, "y", "value", True, 10, 3.0, 1.5],
        [2, "y", "value", False, 7, 1.0, 0.5],
        [2, "y", "query", True, 20, 4.0, 3.5],
        [2, "y", "query", False, 5, 2.0, 0.5],
    ]
    drops = study.specific_drops().set_index(["kind", "common"])
    assert drops.loc[("query", False), ["own", "others", "difference"]].tolist() == [2.0, 0.5, 1.5]
