"""Faithfulness in shards against the same in one call."""

import numpy as np
import pandas as pd
import pytest

from tests.sweep.conftest import parts
from tl_neuron_attr import evaluate, sweep

SCORES = ("log_prob_increase", "norm", "random")
TASK = sweep.FaithfulnessTask(scores=SCORES, counts=(3, 8), seed=2, batch_size=2)


@pytest.fixture(scope="module")
def whole(model, prompts):
    """The same prompts in one call."""
    return evaluate.faithfulness(
        model, [p.prompt for p in prompts], [p.target for p in prompts],
        scores=list(SCORES), k=8, curve=[3], seed=2, progress=False,
    )  # fmt: skip


def test_means_are_those_of_one_call(model, plan, whole, tmp_path):
    planned = plan(tmp_path, task=TASK)
    sweep.run_study(planned, model, progress=False)
    found = sweep.merge_study(tmp_path)
    curve, table = whole.curve().set_index(["score", "k"]), found["methods"].set_index(["score", "k"])
    assert set(table.index) == set(curve.index)
    for metric in ("reciprocal_rank", "prob", "log_prob"):
        np.testing.assert_allclose(table.loc[curve.index, metric], curve[metric], atol=1e-4)
    for k in (3, 8):
        paired = whole.differences(k=k).set_index("score")["difference"]
        mine = found["differences"][found["differences"]["k"] == k].set_index("score")["difference"]
        np.testing.assert_allclose(mine[paired.index], paired, atol=1e-4)
        assert set(mine.index) == set(paired.index)


def test_intervals_are_standard_errors_over_prompts(model, prompts, plan, whole, tmp_path):
    planned = plan(tmp_path, task=TASK, shards=3)
    sweep.run_study(planned, model, progress=False)
    by_type = sweep.merge_study(tmp_path)["by_type"].set_index(["type", "score", "k"])
    sport = [i for i, p in enumerate(prompts) if p.type == "sport"]
    frame = whole.frame[whole.frame["prompt"].isin(sport)].groupby(["score", "k"])["log_prob"]
    for (score, k), error in frame.sem().items():
        row = by_type.loc[("sport", score, k)]
        assert row["log_prob_high"] - row["log_prob"] == pytest.approx(1.96 * error, abs=1e-4)
        assert row["log_prob"] - row["log_prob_low"] == pytest.approx(1.96 * error, abs=1e-4)


def test_a_study_that_stopped_goes_on_to_the_same_bytes(model, plan, tmp_path):
    one, other = plan(tmp_path / "one", task=TASK), plan(tmp_path / "other", task=TASK)
    sweep.run_study(one, model, progress=False)
    sweep.run_shard(other, model, 3)
    sweep.run_study(sweep.open_plan(tmp_path / "other"), model, progress=False)
    assert parts(tmp_path / "one") == parts(tmp_path / "other")
    for name, frame in sweep.merge_study(tmp_path / "one").items():
        pd.testing.assert_frame_equal(frame, sweep.merge_study(tmp_path / "other")[name])


def test_a_prompt_that_can_t_be_run_is_counted_with_its_reason(model, tmp_path):
    prompts = [evaluate.StudyPrompt("3 + 5 =", target, "sum") for target in ("8", "8 .", "zyx")]
    task = sweep.FaithfulnessTask(scores=["norm"], counts=[2])
    planned = sweep.plan_study(model, sweep.prompt_items(prompts), task=task, out=tmp_path)
    sweep.run_study(planned, model, progress=False)
    found = sweep.merge_study(tmp_path)
    assert found["statuses"]["status"].tolist() == ["measured", "the target is empty or not in the model's vocabulary"]
    assert found["statuses"]["prompts"].tolist() == [2, 1]
    assert found["methods"]["k"].tolist() == [0, 2]
    assert found["differences"].empty


def test_prompts_none_of_which_can_be_run_give_empty_tables(model, tmp_path):
    items = sweep.prompt_items([evaluate.StudyPrompt("3 + 5 =", "zyx", "sum")])
    sweep.run_study(sweep.plan_study(model, items, task=TASK, out=tmp_path), model, progress=False)
    found = sweep.merge_study(tmp_path)
    assert found["methods"].empty and found["differences"].empty and len(found["statuses"]) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scores": []}, "scores must hold at least one"),
        ({"counts": [3, 3]}, "counts must hold at least one, each once"),
        ({"counts": [0]}, "counts must be at least 1, got 0"),
        ({"batch_size": 0}, r"batch_size must be between 1 and 2\*\*62, got 0"),
    ],
)
def test_what_can_t_be_measured_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        sweep.FaithfulnessTask(**given)


def test_more_neurons_than_there_are_is_refused_before_a_shard_is_written(model, plan, tmp_path):
    planned = plan(tmp_path, task=sweep.FaithfulnessTask(counts=[10**6]))
    with pytest.raises(ValueError, match="k must be between 1 and the"):
        sweep.run_study(planned, model, progress=False)
    assert parts(tmp_path) == {}
