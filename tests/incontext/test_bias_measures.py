"""Measures of the two biases from numbers made by hand, against plain arithmetic."""

import statistics

import pytest
import torch

from tl_neuron_attr import demo
from tl_neuron_attr.incontext import from_demo
from tl_neuron_attr.incontext.bias_measures import (
    ALL_PROMPTS,
    LEVELS,
    MEAN_OF_LABELS,
    ConditionOutcomes,
    accuracy_by_order,
    accuracy_by_removed_label,
    accuracy_changes,
    before_and_after,
    bias_measures,
    prompt_values,
)
from tl_neuron_attr.incontext.resampling import Resampled

LABELS = ("foo", "bar")
GOLD = torch.tensor([0, 0, 1, 1])
MAJORITY = torch.tensor([[1.0, 1, 1, 0], [0, 1, 1, 1], [1, 1, 0, 0]])
"""Right or not: the balanced prompts, without a ``foo``, without a ``bar``."""

ORDERS = torch.tensor([[1.0, 0, 1, 1], [0, 0, 1, 1]])
ATTENTION = [torch.tensor([0.1, 0.3]).expand(4, 1, 2), torch.tensor([0.3, 0.7]).expand(4, 1, 2)]


def means_of(sample, values):
    return lambda name, gold: sample.means(values[name], gold)


@pytest.fixture(scope="module")
def sample():
    return Resampled(GOLD, 2)


@pytest.fixture(scope="module")
def measures(sample):
    log_odds = torch.tensor([[2.0, 0, 1, 1], [-4, 0, 1, 3]])
    orders = ConditionOutcomes(ORDERS, dict.fromkeys(LEVELS, log_odds), ATTENTION)
    balanced = {level: torch.tensor([[2.0, 0, 1, 3], [9, 9, 9, 9], [9, 9, 9, 9]]) for level in LEVELS}
    without = ConditionOutcomes(MAJORITY, balanced, ATTENTION)  # the first of foo, the second of bar
    shown = from_demo(demo.load(), demo.in_context(4, 2, order=(0, 1)))
    return bias_measures(means_of(sample, prompt_values(without, orders, shown)), LABELS)


@pytest.mark.parametrize(
    "key, value",
    [
        (("majority", "accuracy", "foo"), 1.0),
        (("majority", "accuracy", ALL_PROMPTS), 0.75),
        (("majority", "fluctuation", "foo"), (0.5 + 0.0) / 2),
        (("majority", "fluctuation", "bar"), (0.5 + 0.5) / 2),
        (("majority", "gap", "foo"), 0.0 - (0.5 - 1.0)),
        (("majority", "gap", "bar"), (1.0 - 0.5) - (0.0 - 0.5)),
        (("majority", "gap", MEAN_OF_LABELS), 0.75),
        (("majority", "log-odds", "foo"), 1.0),
        (("majority", "log-odds", MEAN_OF_LABELS), 1.5),
        (("recency", "accuracy", "foo"), 0.25),
        (("recency", "log-odds", "foo"), (2 + 0 - 4 + 0) / 4),
        (("recency", "log-odds", "bar"), (1 + 1 + 1 + 3) / 4),
        (("recency", "deviation", "foo"), statistics.pstdev([0.5, 0.0])),
        (("recency", "deviation", "bar"), 0.0),
        (("recency", "attention", "bar"), statistics.mean([0.1, 0.3, 0.3, 0.7])),
        (
            ("recency", "attention deviation", "foo"),
            statistics.mean([statistics.pstdev([0.1, 0.3]), statistics.pstdev([0.3, 0.7])]),
        ),
    ],
    ids=lambda key: " ".join(key) if isinstance(key, tuple) else "",
)
def test_the_first_draw_is_the_formula(measures, key, value):
    assert float(measures[key][0]) == pytest.approx(value)


def test_a_gap_is_of_one_label_and_never_of_all(measures):
    assert ("majority", "gap", ALL_PROMPTS) not in measures


def test_removals_of_a_label_are_averaged_and_other_labels_left_out():
    model, orders = demo.load(), ((0, 1, 0), (1, 0, 1))
    prompts = [from_demo(model, demo.in_context(1, 3, order=order))[0] for order in orders]
    right = torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0]])
    found = accuracy_by_removed_label(right, prompts)
    assert found.tolist() == [[1, 0], [0.5, 0], [1, 0.5]]


def test_changes_and_orders_are_named_by_label_and_time(sample):
    changes = accuracy_changes(
        {
            "before": means_of(sample, {"majority": MAJORITY}),
            "after": means_of(sample, {"majority": MAJORITY[[0, 0, 0]]}),
        },
        LABELS,
    )
    before = changes[changes["when"] == "before"].set_index(["gold", "removed"])["value"].to_dict()
    assert before["foo", "foo"] == -0.5 and before["bar", "bar"] == -0.5 and before["bar", "foo"] == 0.5
    assert set(changes[changes["when"] == "after"]["value"]) == {0}
    orders = accuracy_by_order({"before": means_of(sample, {"recency": ORDERS})}, LABELS, [(0, 1), (1, 0)])
    assert orders.set_index(["gold", "order"])["value"].to_dict()["foo", "foo bar"] == 0.5


def test_a_change_is_in_per_cent_of_what_was_before(measures):
    half = {key: draws / 2 for key, draws in measures.items()}
    frame = before_and_after(measures, half).set_index(["bias", "measure", "gold"])
    assert frame.loc[("majority", "gap", "foo"), ["change", "change_low", "change_high"]].tolist() == [-50] * 3
    assert frame.index.get_level_values("bias").unique().tolist() == ["majority", "recency"]
