"""Cases by hand: which digit follows what, and what a carry is."""

import itertools

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tl_neuron_attr import cna, demo
from tl_neuron_attr.cna.arithmetic_cases import Case, Problem, arithmetic_cases, problems, written

_M, _C = "memorised", "carried"


class Digits:
    """A stand-in for a model whose tokenizer cuts text into characters."""

    def __init__(self) -> None:
        raw = Tokenizer(models.WordLevel({c: i for i, c in enumerate("0123456789+-*/= ?")}, unk_token="?"))
        raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="?")
        self.cfg, self.W_U = None, torch.empty(1, 20)


def spelled(model, case):
    return model.tokenizer.decode(list(case.tokens)).replace(" ", ""), model.tokenizer.decode([case.answer])


@pytest.fixture(scope="module")
def digits():
    return Digits()


@pytest.mark.parametrize(
    "problem, expected",
    [
        (Problem(15, "+", 32), [("15+32=", "4", "memorised"), ("15+32=4", "7", "memorised")]),
        (Problem(15, "+", 37), [("15+37=", "5", "carried"), ("15+37=5", "2", "memorised")]),
        (Problem(95, "+", 37), [("95+37=", "1", _C), ("95+37=1", "3", _C), ("95+37=13", "2", _M)]),
        (Problem(52, "-", 37), [("52-37=", "1", "carried"), ("52-37=1", "5", "memorised")]),
        (Problem(58, "-", 37), [("58-37=", "2", "memorised"), ("58-37=2", "1", "memorised")]),
        (Problem(12, "*", 12), [("12*12=", "1", _C), ("12*12=1", "4", _C), ("12*12=14", "4", _M)]),
        (Problem(96, "/", 8), [("96/8=", "1", "carried"), ("96/8=1", "2", "memorised")]),
    ],
)  # fmt: skip
def test_a_case_a_digit(digits, problem, expected):
    found = arithmetic_cases(digits, [problem], written=written("{a}{op}{b}=", space=""))
    assert [(*spelled(digits, case), case.kind) for case in found] == expected
    assert {case.group for case in found} == {f"2D{problem.op}"}


def test_answers_may_be_written_from_the_units(digits):
    def adder(p):
        return f"{p.a:02d}{p.b:02d}", f"{p.result:03d}"[::-1]

    found = arithmetic_cases(digits, [Problem(85, "+", 50)], written=adder, low_first=True)
    assert [(*spelled(digits, case), case.kind) for case in found] == [
        ("8550", "5", "memorised"),
        ("85505", "3", "memorised"),
        ("855053", "1", "carried"),
    ]


def test_a_blank_piece_is_read_not_predicted(digits):
    """Some tokenizers cut " 8" into a blank and a digit: the blank is no answer."""
    (case,) = arithmetic_cases(digits, [Problem(3, "+", 5)], written=written("{a}+{b}="))
    assert len(case.tokens) == 5 and spelled(digits, case)[1] == "8"


def test_carries_are_those_of_adding_by_hand():
    for a, b in itertools.product(range(0, 1000, 17), range(0, 1000, 23)):
        carry, borrow, upper, lower = 0, 0, max(a, b), min(a, b)
        for place in range(4):
            assert Problem(a, "+", b).carries_into(place) == bool(carry)
            assert Problem(a, "-", b).carries_into(place) == bool(borrow)
            x, y = a // 10**place % 10, b // 10**place % 10
            carry = int(x + y + carry >= 10)
            borrow = int(upper // 10**place % 10 - borrow < lower // 10**place % 10)


def test_a_number_that_is_one_token_is_one_case():
    model = demo.load()
    carried, memorised = arithmetic_cases(model, [Problem(15, "+", 37), Problem(15, "+", 32)])
    assert (carried.kind, memorised.kind) == ("carried", "memorised")
    assert model.to_string(torch.tensor(carried.tokens)) == "<bos> 15 + 37 ="
    assert model.to_string(torch.tensor([carried.answer])) == "52"


def test_problems_are_all_there_are_or_drawn_by_seed():
    assert {p.result for p in problems("/", digits=1)} <= set(range(10)) and Problem(6, "/", 2) in problems(
        "/", digits=1
    )
    assert all(p.a >= p.b for p in problems("-", digits=2))
    assert all(10 <= p.a < 100 and p.a % p.b == 0 for p in problems("/", digits=2))
    drawn = problems("+", digits=3, n=50, seed=3)
    assert drawn == problems("+", digits=3, n=50, seed=3) != problems("+", digits=3, n=50, seed=4)
    assert len(set(drawn)) == 50
    with pytest.raises(ValueError, match="digits must be between 1 and 3, got 4"):
        problems("+", digits=4)
    with pytest.raises(ValueError, match=r"n must be between 0 and the 55 problems 1D- there are, got 56"):
        problems("-", digits=1, n=56)


def test_the_papers_prompts():
    p = Problem(12, "/", 4)
    assert written(cna.TEMPLATES["/"][1])(p) == ("Q: What is 12 divides 4? A:", " 3")
    assert written(cna.TEMPLATES["/"][2], words=True)(p)[0] == "twelve divides four is"
    assert all(len(group) == 4 for group in cna.TEMPLATES.values())


def test_answers_that_cannot_be_asked_are_named(digits):
    with pytest.raises(ValueError, match=r"the answer ' -2' to '3 - 5 =' is not in the vocabulary"):
        arithmetic_cases(demo.load(), [Problem(3, "-", 5)])
    with pytest.raises(ValueError, match="are not the beginning of those of '3 \\+ 5 =8'"):
        arithmetic_cases(demo.load(), [Problem(3, "+", 5)], written=written(space=""))


def test_templates_and_shots(digits):
    shots = [Problem(1, "+", 1), Problem(22, "+", 5)]
    found = arithmetic_cases(digits, [Problem(15, "+", 32)], template="{a}+{b}= ", shots=shots, between="?")
    assert [spelled(digits, case) for case in found] == [("1+1=2?22+5=27?15+32=", "4"), ("1+1=2?22+5=27?15+32=4", "7")]
    assert [case.given for case in found] == [0, 1]
    assert digits.tokenizer.decode(list(found[0].tokens)).endswith("3 2 =  ")


def test_templates_and_shots_that_cannot_be_are_named(digits):
    some = [Problem(1, "+", 2), Problem(15, "+", 32)]
    with pytest.raises(ValueError, match=r"problems\[1\], .*, is among the shots"):
        arithmetic_cases(digits, some, shots=[Problem(15, "+", 32)])
    with pytest.raises(ValueError, match="template and written both"):
        arithmetic_cases(digits, some, template="{a}+{b}=", written=written())
    for template in ("{a} + {a} =", "{a} + {b} = {c}", "3 + 5 ="):
        with pytest.raises(ValueError, match=r"template must name \{a\}, \{b\} and perhaps \{op\}"):
            arithmetic_cases(digits, some, template=template)


def test_prompts_of_the_demo_world_are_cases():
    model = demo.load()
    (case,) = cna.prompt_cases(model, demo.facts("sport")[:1])
    fact = demo.facts("sport")[0]
    assert case == Case(tuple(model.to_tokens(fact.text)[0].tolist()), model.to_single_token(fact.answer), "sport")
