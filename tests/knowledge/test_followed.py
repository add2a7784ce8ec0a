"""What is scored, as text."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr import demo
from tl_neuron_attr.knowledge.followed import followed_text


def test_each_prompt_has_its_target_position_and_text():
    _, cache = demo.load().run_with_cache(["3 + 5 =", "1 + 1 ="])
    found = followed_text(tna.scored(cache, ["8", "2"], pos=torch.tensor([-1, 3]), contrast="9"))
    assert found.targets == ("8", "2") and found.contrasts == ("9", "9") and found.positions == (4, 3)
    assert found.prompts == ("<bos> 3 + 5 =", "<bos> 1 + 1") and found.model == "tl_neuron_attr demo"


def test_an_answer_of_several_tokens_and_a_set_of_answers_are_named_whole():
    model = demo.load()
    answer = followed_text(tna.answer(model, "Tim Duncan plays the sport of", " basketball ."))
    assert len(answer.targets) == 1 and answer.targets[0].replace(" ", "") == "basketball."
    assert answer.prompts == ("<bos> Tim Duncan plays the sport of",)
    _, cache = model.run_with_cache("3 + 5 =")
    assert followed_text(tna.scored(cache, tna.any_of("8", "9"))).targets == ("8 | 9",)


def test_a_contrast_of_answers_needs_a_target():
    _, cache = demo.load().run_with_cache("3 + 5 =")
    with pytest.raises(ValueError, match="target is missing"):
        tna.scored(cache, contrast=tna.any_of("8", "9"))


def test_without_a_tokenizer_targets_are_numbers_and_there_are_no_prompts():
    model = architectures.build("llama")
    _, cache = model.run_with_cache(architectures.prompts())
    model.tokenizer = None
    found = followed_text(tna.scored(cache, 5))
    assert found.prompts == () and found.positions == (6, 6) and "5" in found.targets[0]
