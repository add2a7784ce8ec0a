"""Choices by hand, from two columns of scores."""

import pandas as pd
import pytest
import torch

from tl_neuron_attr.incontext.outcomes import Outcomes
from tl_neuron_attr.incontext.ranking import choose, matrix, pairs, with_causal


def frame(static, causal, log_odds=None):
    n = len(static)
    columns = {"layer": [0] * n, "head": list(range(n)), "static": static, "causal": causal}
    made = pd.DataFrame(columns | {"log_odds": log_odds or [0.0] * n})
    return made.assign(candidate=made["causal"].notna())


def test_the_sum_of_ranks_decides():
    #               ranks     0 + 2           2 + 0         1 + 1      3 + 3
    scores = frame([4.0, 2.0, 3.0, 1.0], [0.2, 0.9, 0.5, 0.1])
    assert pairs(choose(scores, 4, "rank", "accuracy")) == [(0, 0), (0, 1), (0, 2), (0, 3)]  # ties by place
    assert pairs(choose(scores, 1, "rank", "accuracy").query("found")) == [(0, 0)]
    assert pairs(choose(scores, 2, "union", "accuracy").query("found")) == [(0, 0), (0, 1), (0, 2)]
    assert pairs(choose(scores, 2, "intersection", "accuracy").query("found")) == [(0, 2)]


def test_equal_losses_of_accuracy_are_told_apart_by_log_odds():
    scores = frame([1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.1, 0.3, 0.2])
    assert pairs(choose(scores, 3, "rank", "accuracy")) == [(0, 1), (0, 0), (0, 2)]  # 1 + 0, 0 + 2, 2 + 1
    assert pairs(choose(scores, 1, "union", "accuracy").query("found")) == [(0, 1), (0, 0)]
    by_odds = frame([1.0, 1.0, 1.0], [0.9, 0.0, 0.0], [0.1, 0.3, 0.2])
    assert pairs(choose(by_odds, 1, "union", "log_odds").query("found")) == [(0, 1), (0, 0)]


def test_heads_that_were_not_zeroed_are_never_chosen():
    scores = frame([9.0, 2.0, 3.0], [float("nan"), 0.9, 0.5])
    assert set(pairs(choose(scores, 2, "rank", "accuracy").query("found"))) == {(0, 1), (0, 2)}
    with pytest.raises(ValueError, match="n must be between 1 and the 2 candidate heads, got 3"):
        choose(scores, 3, "rank", "accuracy")


def test_what_is_lost_is_joined_to_its_head():
    gold = torch.tensor([0, 1])
    base = Outcomes(gold, gold, torch.tensor([True, True]), torch.zeros(2), torch.tensor([1.0, 2.0]))
    label = torch.tensor([[0, 0], [1, 1], [0, 1]])
    odds = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 2.0]])
    without = Outcomes(gold, label, torch.ones(3, 2, dtype=torch.bool), torch.zeros(3, 2), odds)
    scores = pd.DataFrame({"layer": [0, 0, 1, 1], "head": [0, 1, 0, 1]})
    found = with_causal(scores, [(1, 0), (0, 1), (1, 1)], base, without, ("foo", "bar"), "labels")
    assert found["causal"].tolist()[1:] == [0.5, 0.5, 0.0] and found["causal"].isna().tolist()[0]
    assert found["causal_foo"].tolist()[1:] == [1.0, 0.0, 0.0] and found["causal_bar"].tolist()[1:] == [0.0, 1.0, 0.0]
    assert found["log_odds"].tolist()[1:] == [0.5, 1.0, 0.0]
    assert found["lost_labels"].equals(found["causal"]) and found["lost_vocabulary"].equals(found["causal"])
    assert matrix(found.fillna(-1), "causal").tolist() == [[-1.0, 0.5], [0.5, 0.0]]
