"""The text that goes with neurons, by prompt and by neuron."""

from tl_neuron_attr.results.neuron_text import NeuronText

FIRST = NeuronText((("a", " b"), ("c",)), {"L0N1+": ("x",), "L0N1-": ("y", "z")})
SECOND = NeuronText((("d", "e", "f"),), {"L5N6+": ("w",)})


def test_a_token_is_found_by_prompt_and_position_and_is_empty_where_it_is_not_known():
    assert [FIRST.source(0, 1), FIRST.source(1, 0)] == [" b", "c"]
    assert [FIRST.source(1, 1), FIRST.source(2, 0), FIRST.source(0, -1), NeuronText().source(0, 0)] == [""] * 4


def test_the_sign_of_a_coefficient_decides_what_a_neuron_promotes():
    assert FIRST.of("L0N1+") == ("x",) and FIRST.of("L0N1-") == ("y", "z") and FIRST.of("L9N9+") == ()


def test_one_prompts_text_is_the_first_of_its_own():
    second = FIRST.of_prompt(1)
    assert second.source(0, 0) == "c" and second.sources == (("c",),)
    assert second.promoted == FIRST.promoted


def test_joining_puts_prompts_one_after_another_and_taking_one_apart_gives_it_back():
    joined = NeuronText.joined([FIRST, SECOND])
    assert joined.sources == (("a", " b"), ("c",), ("d", "e", "f"))
    assert joined.source(2, 2) == "f" and joined.of("L5N6+") == ("w",) and joined.of("L0N1-") == ("y", "z")
    assert joined.of_prompt(2).sources == SECOND.sources


def test_words_are_told_by_the_space_before_them_where_the_tokenizer_marks_it():
    text = NeuronText((("<bos>", " b"),), {"L0N1+": (" Rome", "affili", " ,", " Wien", "<eos>"), "L0N2+": ("x",)})
    kept, left_out = text.readable()
    assert kept.of("L0N1+") == (" Rome", " Wien") and kept.of("L0N2+") == () and left_out == 4
    whole, left_out = NeuronText((("<bos>", "b"),), {"L0N1+": ("Rome", "+", "<eos>")}).readable()
    assert whole.of("L0N1+") == ("Rome",) and left_out == 2
    assert set(text.of_keys(["L0N2+", "L9N9-"]).promoted) == {"L0N2+"}
