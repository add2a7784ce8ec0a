import pytest

from tl_neuron_attr import demo
from tl_neuron_attr.incontext import (
    arranged,
    balanced,
    from_demo,
    icl_prompt,
    one_removed,
    reordered,
    reversed_labels,
    with_query,
)
from tl_neuron_attr.incontext.variants import label_sequences


@pytest.fixture(scope="module")
def model():
    return demo.load()


@pytest.fixture(scope="module")
def prompts(model):
    return from_demo(model, demo.in_context(4, 4, counts=(2, 2), seed=3))


def test_reversed_labels_keep_texts_and_turn_labels_and_gold(model, prompts):
    for before, after in zip(prompts, reversed_labels(model, prompts), strict=True):
        assert [text for text, _ in after.demonstrations] == [text for text, _ in before.demonstrations]
        assert [a + b for a, b in zip(before.sequence, after.sequence, strict=True)] == [1] * 4
        assert (before.gold + after.gold, after.classes) == (1, before.classes[::-1])
        assert after.text.replace("foo", "-").replace("bar", "foo").replace("-", "bar") == before.text
    assert reversed_labels(model, reversed_labels(model, prompts)) == prompts


def test_three_labels_turn_round(model):
    words = [("great movie", "foo"), ("awful plot", "bar"), ("new song", "baz")]
    prompt = icl_prompt(model, words, "old song", "baz", end=" . ", classes=("p", "n", "o"))
    (relabelled,) = reversed_labels(model, [prompt])
    assert (relabelled.sequence, relabelled.gold, relabelled.classes) == ((1, 2, 0), 0, ("o", "p", "n"))


def test_balanced_leaves_the_last_of_the_majority_out(model):
    (prompt,) = from_demo(model, demo.in_context(1, 5, order=(0, 1, 0, 1, 1)))
    (even,) = balanced(model, [prompt])
    assert even.demonstrations == prompt.demonstrations[:4] and even.counts == (2, 2)


def test_one_removed_leaves_each_out_in_turn(model, prompts):
    for prompt, variants in zip(prompts, one_removed(model, prompts), strict=True):
        assert len(variants) == 4
        for i, variant in enumerate(variants):
            assert variant.demonstrations == prompt.demonstrations[:i] + prompt.demonstrations[i + 1 :]
            assert (variant.query, variant.gold) == (prompt.query, prompt.gold)
    (short,) = from_demo(model, demo.in_context(1, 3, order=(0, 1, 1)))
    with pytest.raises(ValueError, match="demonstration 0 is the only one of the label 'foo'"):
        one_removed(model, [short])


def test_orders(model, prompts):
    for before, after in zip(prompts, reordered(model, prompts, [3, 2, 1, 0]), strict=True):
        assert after.demonstrations == before.demonstrations[::-1]
    for sequence in label_sequences(prompts[0].sequence):
        for before, after in zip(prompts, arranged(model, prompts, sequence), strict=True):
            assert after.sequence == sequence
            for label in (0, 1):
                kept = [pair for pair in after.demonstrations if pair[1] == label]
                assert kept == [pair for pair in before.demonstrations if pair[1] == label]
    assert len(label_sequences(prompts[0].sequence)) == 6
    with pytest.raises(ValueError, match=r"order must be a permutation of the 4 demonstrations, got \[0, 1, 2, 2\]"):
        reordered(model, prompts, [0, 1, 2, 2])
    with pytest.raises(ValueError, match="sequence must have the labels of the demonstrations"):
        arranged(model, prompts, [0, 0, 0, 1])


def test_other_queries_behind_the_same_demonstrations(model, prompts):
    asked = with_query(model, prompts[0], [(p.query, p.gold) for p in prompts[1:]])
    assert {p.demonstrations for p in asked} == {prompts[0].demonstrations}
    assert [(p.query, p.gold) for p in asked] == [(p.query, p.gold) for p in prompts[1:]]
    assert all(p.text.endswith(f"{p.query} :") for p in asked)
