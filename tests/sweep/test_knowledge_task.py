"""A study in batches and shards against the study that walks one prompt at a time."""

import numpy as np
import pandas as pd
import pytest

from tests.evaluate.small_study import SIZES
from tl_neuron_attr import evaluate, sweep
from tl_neuron_attr.evaluate import StudyPrompt


@pytest.fixture(scope="module")
def both(model, facts, prompts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    task = sweep.KnowledgeTask(sizes=SIZES, batch_size=3, every_neuron=True)
    several = [StudyPrompt(p.prompt, f"{p.target} .", "several") for p in facts["sport"]]
    asked = facts | {"several": several}
    planned = sweep.plan_study(model, sweep.prompt_items([*prompts, *several]), task=task, out=folder, shards=4)
    sweep.run_study(planned, model, progress=False)
    return (
        planned,
        sweep.merge_study(folder),
        evaluate.knowledge_study(model, asked, sizes=SIZES, every_neuron=True, progress=False),
    )


def test_answers_of_several_tokens_are_kept_and_counted(both):
    _, tables, study = both
    pd.testing.assert_frame_equal(tables["kept"], study.kept(), check_dtype=False)
    assert tables["kept"].set_index("type")["several_tokens"].to_dict().pop("several") >= 3


def rows(planned):
    return pd.concat(planned.frames("scores"), ignore_index=True)


def test_rows_hold_the_scores_of_each_prompt(both):
    planned, _, study = both
    for item, frame in study.heads.groupby("prompt"):
        row = rows(planned).iloc[item]
        np.testing.assert_allclose(row["heads"], frame["score"], atol=1e-4)


def test_neurons_are_those_of_the_study(both):
    planned, _, study = both
    for (item, kind), frame in study.neurons.groupby(["prompt", "kind"]):
        row = rows(planned).iloc[item]
        found = set(zip(row[f"{kind}_layer"], row[f"{kind}_index"], strict=True))
        expected = set(zip(frame["layer"], frame["index"], strict=True))
        assert len(found ^ expected) <= 2  # a tie at the last place


@pytest.mark.parametrize("name", ["layer_sums", "decreases", "cross_decreases"])
def test_tables_are_those_of_the_study(both, name):
    _, tables, study = both
    expected = getattr(study, name)()
    found = tables[name]
    numbers = [c for c in expected.select_dtypes("number") if not c.endswith(("_low", "_high"))]
    keys = [c for c in expected if c in ("type", "site", "zeroed")]
    joined = found.merge(expected, on=keys, suffixes=("", "_expected"))
    assert len(joined) == len(expected) == len(found)
    for column in numbers:
        np.testing.assert_allclose(joined[column], joined[f"{column}_expected"], atol=2e-3)


def test_sums_over_every_neuron_are_those_of_the_study(both):
    _, tables, study = both
    expected = study.neuron_sums().set_index(["site", "neurons"]).stack()
    found = tables["neuron_sums"].set_index(["site", "neurons", "type"])["score"]
    assert len(found) == len(expected) == 2 * 4 * 4
    np.testing.assert_allclose(found.loc[expected.index], expected, atol=2e-3)


def test_depth_is_that_of_the_study(both):
    _, tables, study = both
    np.testing.assert_allclose(
        tables["depth"][["queryvalue", "queryonly"]], study.depth()[["queryvalue", "queryonly"]], atol=0.1
    )


def test_scores_do_not_depend_on_the_batch(model, prompts, both, tmp_path):
    planned, _, _ = both
    task = sweep.KnowledgeTask(sizes=SIZES, batch_size=1)
    alone = sweep.plan_study(model, sweep.prompt_items(prompts), task=task, out=tmp_path, shards=1)
    sweep.run_study(alone, model, progress=False)
    for column in ("heads", "layers_mlp", "log_prob"):
        batched = rows(planned)[column][: len(prompts)]
        np.testing.assert_allclose(np.stack(rows(alone)[column]), np.stack(batched), atol=1e-5)


def test_prompts_left_out_say_why(model, tmp_path):
    prompts = [
        StudyPrompt("Tim Duncan plays the sport of", "basketball", "sport"),
        StudyPrompt("Tim Duncan plays the sport of", "zyx", "sport"),
        StudyPrompt("3 + 5 =", "basketball", "sum"),
        StudyPrompt("half \ud83d", "basketball", "sport"),
    ]
    planned = sweep.plan_study(model, sweep.prompt_items(prompts), task=sweep.KnowledgeTask(sizes=SIZES), out=tmp_path)
    sweep.run_study(planned, model, progress=False)
    found = rows(planned)["status"].tolist()
    assert found[0] == "kept"
    assert "not in the model's vocabulary" in found[1]
    assert "not among the 10 likeliest" in found[2]
    assert "half a character" in found[3]
    kept = sweep.merge_study(tmp_path)["kept"].set_index("type")
    assert kept.loc["sport"].tolist() == [3, 1, 0]
    assert kept.loc["sum"].tolist() == [1, 0, 0]


def test_a_batch_of_none_is_refused():
    with pytest.raises(ValueError, match=r"batch_size must be between 1 and 2\*\*62, got 0"):
        sweep.KnowledgeTask(batch_size=0)
