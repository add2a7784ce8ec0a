"""Batches of prompts: one length each, every prompt once, bounded by memory."""

import pytest

from tl_neuron_attr import sweep
from tl_neuron_attr.evaluate import StudyPrompt
from tl_neuron_attr.sweep import prompt_batches


@pytest.fixture
def items(model, prompts):
    unknown = StudyPrompt("Tim Duncan plays the sport of", "basket ball", "sport")
    return sweep.prompt_items([*prompts, unknown]).read(model).rename_axis("item")


def test_every_prompt_that_can_be_run_is_in_one_batch(model, items):
    batches = list(prompt_batches.prompt_batches(model, items, batch_size=5))
    assert sorted(item for batch in batches for item in batch.items) == list(range(12))
    for batch in batches:
        assert len(batch.tokens) == len(batch.target) == len(batch.types) <= 5
        for i, item in enumerate(batch.items):
            assert model.to_string(batch.tokens[i]).endswith(items["prompt"][item])
            assert model.to_string(batch.target[i : i + 1]).strip() == items["target"][item].strip()
            assert batch.types[i] == items["type"][item]


def test_logits_bound_a_batch(model, items, monkeypatch):
    monkeypatch.setattr(prompt_batches, "_LOGIT_BYTES", 1)
    assert {len(b.items) for b in prompt_batches.prompt_batches(model, items, batch_size=5)} == {1}


def test_a_target_of_several_tokens_is_named(items):
    assert items["problem"][12] == "the target is not one token"
    assert items["target_id"][12] == -1
