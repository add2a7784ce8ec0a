"""Batches of prompts: one length each, every prompt once, bounded by memory."""

import pytest

from tl_neuron_attr import sweep
from tl_neuron_attr.evaluate import StudyPrompt
from tl_neuron_attr.sweep import prompt_batches


@pytest.fixture
def items(model, prompts):
    several = StudyPrompt("Tim Duncan plays the sport of", "home basketball", "sport")
    return sweep.prompt_items([*prompts, several]).read(model).rename_axis("item")


def test_every_prompt_that_can_be_run_is_in_one_batch(model, items):
    batches = list(prompt_batches.prompt_batches(model, items, batch_size=5))
    assert sorted(item for batch in batches for item in batch.indices) == list(range(13))
    for batch in batches:
        assert len(batch.tokens) == len(batch.target) == len(batch.types) <= 5
        for i, item in enumerate(batch.indices):
            assert model.to_string(batch.prompts[i]).endswith(items["prompt"][item])
            assert model.to_string(batch.target[i]).strip() == items["target"][item].strip()
            assert batch.types[i] == items["type"][item]


def test_logits_bound_a_batch(model, items, monkeypatch):
    monkeypatch.setattr(prompt_batches, "_LOGIT_BYTES", 1)
    assert {len(b.indices) for b in prompt_batches.prompt_batches(model, items, batch_size=5)} == {1}


def test_a_target_of_several_tokens_stands_behind_its_prompt_but_for_the_last(model, items):
    (batch,) = [b for b in prompt_batches.prompt_batches(model, items, batch_size=5) if b.target.shape[1] == 2]
    assert batch.indices == [12] and items["target_ids"][12] == batch.target[0].tolist()
    assert model.to_string(batch.tokens[0]).endswith("the sport of home")
    assert [a.tokens for a in batch.answers] == [tuple(batch.target[0].tolist())]


def test_a_target_the_model_has_no_word_for_is_named(model):
    items = sweep.prompt_items([StudyPrompt("3 + 5 =", "zyx", "sum")]).read(model)
    assert items["problem"][0] == "the target is empty or not in the model's vocabulary"
    assert (items["target_id"][0], items["target_tokens"][0]) == (-1, 0)
