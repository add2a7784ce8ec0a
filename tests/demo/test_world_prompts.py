"""Prompts are data: they can be compared, hashed and pickled, and not changed."""

import pickle
from dataclasses import FrozenInstanceError

import pytest

from tl_neuron_attr import demo


@pytest.mark.parametrize(
    "prompt", [demo.facts("sport")[0], demo.in_context(1, 2)[0], demo.occupations()[0]], ids=lambda p: type(p).__name__
)
def test_a_prompt_is_frozen_and_survives_being_sent(prompt):
    again = pickle.loads(pickle.dumps(prompt))
    assert again == prompt and hash(again) == hash(prompt) and again is not prompt
    with pytest.raises(FrozenInstanceError):
        prompt.answer = "tennis"


def test_the_template_and_subject_make_the_text():
    for prompt in demo.facts("capital"):
        assert prompt.template.format(prompt.subject) == prompt.text


def test_the_share_decides_the_answer_of_an_occupation():
    assert {prompt.answer == "she" for prompt in demo.occupations() if prompt.share > 0.5} == {True}
    assert {prompt.answer == "he" for prompt in demo.occupations() if prompt.share < 0.5} == {True}
