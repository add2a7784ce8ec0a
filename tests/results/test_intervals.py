import numpy as np
import pandas as pd
import pytest

from tl_neuron_attr.results.intervals import (
    change_interval,
    difference_interval,
    interval,
    percent_change,
    shown_interval,
)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(3)
    inside = 0
    for i in range(200):
        _, low, high = interval(pd.Series(rng.normal(1.0, 2.0, 60)), seed=i)
        inside += low <= 1.0 <= high
    assert 0.88 <= inside / 200 <= 0.99


def test_the_interval_is_reproducible_and_ordered():
    values = pd.Series(np.arange(20.0))
    mean, low, high = interval(values)
    assert (mean, low, high) == interval(values) and low < mean < high and mean == 9.5


def test_a_change_is_of_the_means_and_its_interval_pairs_the_prompts():
    rng = np.random.default_rng(4)
    before = rng.uniform(1, 9, 50)
    assert change_interval(before, 1.5 * before) == pytest.approx((50, 50, 50))  # of every prompt alike: no doubt left
    change, low, high = change_interval(before, before[::-1])
    assert change == pytest.approx(0, abs=1e-9) and low < -5 and high > 5
    assert not np.isfinite(change_interval(np.zeros(3), np.ones(3))).any()


def test_what_cancels_but_for_rounding_is_nothing_and_has_no_change():
    before = np.array([0.1, 0.2, -0.3])
    assert before.mean() == pytest.approx(0, abs=1e-16) and before.mean() != 0
    assert not np.isfinite(change_interval(before, np.ones(3))[0])
    np.testing.assert_array_equal(
        percent_change(np.array([1e-16, 1e-16, 2.0]), np.array([2e-16, 1.0, 1.0])), [np.nan, np.inf, -50]
    )


def test_one_prompt_has_a_mean_and_no_interval():
    one, two = np.array([3.0]), np.array([1.0, 2.0])
    for value, low, high in (
        interval(pd.Series(one)),
        change_interval(two[:1], one),
        difference_interval(one, two),
        difference_interval(two, one),
    ):
        assert np.isfinite(value) and np.isnan([low, high]).all()
        assert shown_interval(value, low, high, spec=".1f", unit=" %") == f"{value:.1f} % (no interval)"
    assert shown_interval(*difference_interval(two, two)).endswith("]")
