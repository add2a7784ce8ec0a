"""Sums over shards against the means of all rows at once."""

import numpy as np
import pandas as pd
import pytest

from tl_neuron_attr.sweep.knowledge_tables import Sums, head_table


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    return pd.DataFrame({"type": ["a", "b", "a", "a", "b", "a"], "heads": list(rng.normal(size=(6, 4)))})


def test_means_and_errors_are_those_of_all_rows(frame):
    sums = Sums()
    for start in (0, 2, 3):
        sums.add(frame.iloc[start : {0: 2, 2: 3, 3: 6}[start]])
    for kind, group in frame.groupby("type"):
        values = np.stack(group["heads"])
        np.testing.assert_allclose(sums.means("heads")[kind], values.mean(0))
        np.testing.assert_allclose(sums.errors("heads")[kind], values.std(0, ddof=1) / np.sqrt(len(values)))


def test_rows_without_the_column_count_for_nothing(frame):
    sums, with_gaps = Sums(), Sums()
    sums.add(frame.iloc[[0, 2, 3, 5]])
    with_gaps.add(frame.assign(heads=frame["heads"].where(frame["type"] == "a", None)))
    np.testing.assert_allclose(with_gaps.means("heads")["a"], sums.means("heads")["a"])
    assert list(with_gaps.means("heads")) == ["a"]


def test_a_head_is_named_by_layer_and_number(frame):
    sums = Sums()
    sums.add(frame)
    table = head_table(sums, 2)
    of_b = table[table["type"] == "b"].set_index(["layer", "head"])["score"]
    values = np.stack(frame["heads"][frame["type"] == "b"]).mean(0)
    assert of_b[1, 0] == pytest.approx(values[2]) and of_b[0, 1] == pytest.approx(values[1])


def test_a_single_row_has_no_interval():
    sums = Sums()
    sums.add(pd.DataFrame({"type": ["a"], "heads": [np.array([1.5])]}))
    row = head_table(sums, 1).iloc[0]
    assert row["score"] == 1.5 and np.isnan([row["score_low"], row["score_high"]]).all()
