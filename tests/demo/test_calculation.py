from collections import Counter

import pytest

from tl_neuron_attr import demo

SPLITS = ("train", "tuning", "held_out")


def by_counting(text: str) -> int:
    """An answer reached without arithmetic on the operands."""
    a, op, b, equals = text.split()
    assert equals == "="
    first, second = list(range(int(a))), list(range(int(b)))
    if op == "+":
        return len(first + second)
    if op == "-":
        return len(first[len(second) :])
    return len([(x, y) for x in first for y in second])


@pytest.mark.parametrize("op", ["+", "-", "*"])
@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_right(op: str, split: str):
    prompts = demo.arithmetic(op, split=split)  # pyright: ignore[reportArgumentType]
    assert prompts
    assert all(int(p.answer) == by_counting(p.text) and p.kind == op for p in prompts)


def test_splits_are_disjoint_and_cover_the_range():
    texts = Counter(p.text for split in SPLITS for p in demo.arithmetic(split=split))  # pyright: ignore[reportArgumentType]
    assert set(texts.values()) == {1}
    assert len(texts) == 100 * 100 + sum(range(1, 101)) + 10 * 10


def test_digits_parts_the_problems():
    one, two = demo.arithmetic("+", digits=1), demo.arithmetic("+", digits=2)
    assert len(one) + len(two) == len(demo.arithmetic("+"))
    assert {max(len(w) for w in p.text.split()) for p in one} == {1}
    assert {max(len(w) for w in p.text.split()) for p in two} == {2}


def test_of_a_held_out_product_the_other_order_is_trained_on():
    trained = {p.text for p in demo.arithmetic("*")}
    for split in ("tuning", "held_out"):
        for p in demo.arithmetic("*", split=split):  # pyright: ignore[reportArgumentType]
            a, _, b, _ = p.text.split()
            assert f"{b} * {a} =" in trained


def test_held_out_problems_are_spread_over_the_last_digits():
    digits = Counter(int(p.answer) % 10 for p in demo.arithmetic("+", split="held_out"))
    assert len(digits) == 10
    assert max(digits.values()) < 2.5 * min(digits.values())


def test_errors_name_the_argument_and_its_choices():
    with pytest.raises(ValueError, match=r"op must be one of \+, -, \*, got '/'"):
        demo.arithmetic("/")
    with pytest.raises(ValueError, match="digits must be 1 or 2, got 3"):
        demo.arithmetic(digits=3)
    with pytest.raises(TypeError, match="split must be"):
        demo.arithmetic(split="new")  # pyright: ignore[reportArgumentType]
