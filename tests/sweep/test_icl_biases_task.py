"""The biases in shards against the same prompts in one call."""

import numpy as np
import pytest

from tests.sweep.conftest import parts
from tl_neuron_attr import demo, incontext, sweep

HEADS = [(3, 4), (3, 7)]
TASK = sweep.IclBiasesTask(heads=HEADS, batch_size=9)


@pytest.fixture(scope="module")
def icl(model):
    return incontext.from_demo(model, demo.in_context(24, 4, counts=(2, 2), seed=3))


@pytest.fixture(scope="module")
def whole(model, icl):
    return incontext.icl_biases(model, icl, HEADS, progress=False)


def planned(model, icl, folder, task=TASK):
    return sweep.plan_study(model, sweep.icl_items(icl), task=task, out=folder, shards=4)


def test_measures_are_those_of_one_call_and_intervals_alike(model, icl, whole, tmp_path):
    sweep.run_study(planned(model, icl, tmp_path), model, progress=False)
    found = sweep.merge_study(tmp_path)
    keys, values = ["bias", "measure", "gold"], ["before", "after", "change"]
    mine, theirs = (frame.set_index(keys) for frame in (found["biases"], whole.frame))
    assert set(mine.index) == set(theirs.index)
    np.testing.assert_allclose(mine.loc[theirs.index, values], theirs[values], rtol=1e-3, atol=1e-4)
    accuracy = ("recency", "accuracy", "all")
    for end in ("before_low", "before_high"):
        assert mine.loc[accuracy, end] == pytest.approx(theirs.loc[accuracy, end], abs=0.05)
    for name, theirs in (("changes", whole.changes), ("orders", whole.orders)):
        np.testing.assert_allclose(found[name]["value"], theirs["value"], atol=1e-9)
    task = found["task"].iloc[0]
    assert (task["prompts"], task["does_task"]) == (24, whole.does_task)
    assert task["accuracy"] == pytest.approx(whole.accuracy[0])


def test_a_model_that_does_not_do_the_task_has_no_biases(icl, tmp_path):
    few = [*icl[:4], next(prompt for prompt in icl if prompt.gold != icl[0].gold)]
    untrained = demo.load()
    for parameter in untrained.parameters():
        parameter.data.zero_()
    sweep.run_study(planned(untrained, few, tmp_path), untrained, progress=False)
    found = sweep.merge_study(tmp_path)
    assert not found["task"]["does_task"].item() and found["biases"].empty


def test_what_can_t_be_measured_is_refused(model, icl, tmp_path):
    with pytest.raises(ValueError, match="batch_size must be between 1 and"):
        sweep.IclBiasesTask(heads=HEADS, batch_size=0)
    with pytest.raises(ValueError, match="heads is empty"):
        sweep.IclBiasesTask(heads=[])
    with pytest.raises(ValueError, match="prompts is empty"):
        sweep.icl_items([])
    unbalanced = incontext.from_demo(model, demo.in_context(4, 4, counts=(1, 3)))
    with pytest.raises(ValueError, match="as many demonstrations of each label"):
        sweep.icl_items(unbalanced)
    with pytest.raises(IndexError):
        sweep.run_study(planned(model, icl, tmp_path, sweep.IclBiasesTask(heads=[(99, 0)])), model, progress=False)
    assert parts(tmp_path) == {}
