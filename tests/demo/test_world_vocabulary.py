"""One id for each word, in a fixed order: the shipped weights were trained on it."""

import pytest

from tl_neuron_attr import demo
from tl_neuron_attr.demo.world_vocabulary import BOS, IDS, PAD, UNKNOWN, WORDS, encode


def test_a_words_id_is_its_place_and_special_tokens_come_first():
    assert WORDS[:3] == [PAD, BOS, UNKNOWN]
    assert len(WORDS) == len(set(WORDS)) == len(IDS) == 1065
    assert all(WORDS[i] == word for word, i in IDS.items())


def test_every_prompt_of_every_generator_can_be_encoded():
    splits = ("train", "tuning", "held_out")
    prompts = [p for split in splits for make in (demo.facts, demo.arithmetic) for p in make(split=split)]
    prompts += [
        *demo.facts(split="new"),
        *demo.facts(split="tuning_new"),
        *demo.occupations(),
        *demo.occupations(new=True),
    ]
    for prompt in prompts:
        ids = encode(f"{prompt.text} {prompt.answer}")
        assert ids[0] == IDS[BOS] and " ".join(WORDS[i] for i in ids[1:]) == f"{prompt.text} {prompt.answer}"


def test_a_word_that_is_not_there_is_named():
    with pytest.raises(KeyError, match="xyzzy"):
        encode("the xyzzy")
