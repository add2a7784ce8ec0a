"""A plan belongs to one model, one list of prompts, one task and one release."""

import copy
import dataclasses
import json

import pandas as pd
import pytest
import torch

import tl_neuron_attr as tna
from tests.evaluate.small_study import SIZES
from tl_neuron_attr import sweep


def test_shards_hold_every_item_once_in_order(plan, tmp_path, prompts):
    planned = plan(tmp_path, shards=5)
    shards = [planned.shard(i) for i in range(planned.shards)]
    assert pd.concat(shards)["item"].tolist() == list(range(len(prompts)))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_a_plan_opens_again(plan, tmp_path):
    planned, opened = plan(tmp_path), sweep.open_plan(tmp_path)
    assert (opened.task, opened.manifest) == (planned.task, planned.manifest)
    assert opened.items.equals(planned.items)


def test_the_same_study_is_opened_and_another_refused(model, prompts, plan, tmp_path):
    planned = plan(tmp_path)
    assert plan(tmp_path).manifest == planned.manifest
    items = sweep.prompt_items(prompts[:-1])
    with pytest.raises(ValueError, match=r"holds another study \(items is"):
        sweep.plan_study(model, items, task=planned.task, out=tmp_path, shards=4)
    with pytest.raises(ValueError, match=r"another study \(parameters is"):
        plan(tmp_path, task=sweep.KnowledgeTask(sizes=SIZES, batch_size=3, seed=1))
    with pytest.raises(ValueError, match=r"another study \(shards is 4, not 3\)"):
        plan(tmp_path, shards=3)


def test_a_study_that_is_there_reads_no_prompt_again(model, prompts, plan, tmp_path):
    planned = plan(tmp_path, shards=4)
    unread = sweep.Items(sweep.prompt_items(prompts).fingerprint, lambda _: pytest.fail("tokenised again"))
    assert sweep.plan_study(model, unread, task=planned.task, out=tmp_path).manifest == planned.manifest
    for name in ("prompt", "target", "type"):
        changed = [*prompts[:-1], dataclasses.replace(prompts[-1], **{name: "other"})]
        assert sweep.prompt_items(changed).fingerprint != unread.fingerprint


def test_any_weight_tells_models_apart(model, plan, tmp_path):
    planned = plan(tmp_path)
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(p for name, p in reversed(list(other.named_parameters())) if "mlp" in name).mul_(1.15)
    with pytest.raises(ValueError, match="a study of another model"):
        sweep.run_study(planned, other, progress=False)
    assert planned.unfinished("scores") == [0, 1, 2, 3]


def test_a_hooked_model_is_refused(model, plan, tmp_path):
    planned = plan(tmp_path)
    with tna.ablate(model, ["L3H2"]), pytest.raises(ValueError, match="active hooks"):
        sweep.run_study(planned, model, progress=False)


def test_changed_items_are_noticed(plan, tmp_path):
    plan(tmp_path)
    frame = pd.read_parquet(tmp_path / "items.parquet")
    frame.loc[0, "prompt"] = "The capital of Spain is"
    frame.to_parquet(tmp_path / "items.parquet", index=False)
    with pytest.raises(ValueError, match=r"items\.parquet was changed"):
        sweep.open_plan(tmp_path).items  # noqa: B018


@pytest.mark.parametrize("shards", [0, -1, 13])
def test_shards_are_between_one_and_the_items(plan, tmp_path, shards):
    with pytest.raises(ValueError, match="shards must be between 1 and the 12 items"):
        plan(tmp_path, shards=shards)
    assert not (tmp_path / "study.json").exists()


def test_a_study_of_nothing_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="items is empty"):
        sweep.plan_study(model, sweep.prompt_items([]), task=sweep.HeadEffectsTask(), out=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "nothing"}, "damaged"),
        ({"parameters": {"sizes": {"query": 0}}}, "damaged"),
        ({"parameters": {"other": 1}}, "damaged"),
        ({"version": "0.0.1"}, "release 0.0.1"),
        ({"version": None}, "release None"),
    ],
)
def test_a_damaged_manifest_is_refused(plan, tmp_path, change, message):
    plan(tmp_path)
    held = json.loads((tmp_path / "study.json").read_text())
    (tmp_path / "study.json").write_text(json.dumps(held | change))
    with pytest.raises(ValueError, match=message):
        sweep.open_plan(tmp_path)


def test_an_empty_folder_holds_no_study(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no study"):
        sweep.open_plan(tmp_path)


def test_there_is_no_shard_beyond_the_last(plan, tmp_path):
    with pytest.raises(IndexError, match="shard must lie between 0 and 3, got 4"):
        plan(tmp_path).shard(4)
