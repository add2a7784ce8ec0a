import pytest

from tl_neuron_attr import cna, demo
from tl_neuron_attr.cna.arithmetic_set import NEGATIVE


def read(model, case):
    return model.to_string(list(case.tokens)), model.to_string([case.answer])


def test_problems_are_answered_right_and_none_is_in_both_halves():
    model = demo.load()
    train, test = cna.arithmetic_set(model, train=300, test=100)
    seen = [{case.tokens[:5] for case in cases} for cases in (train, test)]
    assert not seen[0] & seen[1]
    assert (len(seen[0]), len(seen[1])) == (300, 100)
    for case in train + test:
        prompt, answer = read(model, case)
        a, op, b, equals, *rest = prompt.replace("<bos>", "").split()
        result = int(a) + int(b) if op == "+" else int(a) - int(b)
        assert equals == "="
        assert (case.group == NEGATIVE) == (result < 0)
        assert answer.strip() == (["-", str(-result)][len(rest)] if result < 0 else str(result))
        assert rest in ([], ["-"])


def test_the_seed_decides():
    model = demo.load()
    one, same, other = (cna.arithmetic_set(model, train=20, test=20, seed=seed)[1] for seed in (0, 0, 1))
    assert one == same != other


def test_too_many_problems_are_refused():
    with pytest.raises(ValueError, match="at most 20000 together, got 19999, 2"):
        cna.arithmetic_set(demo.load(), train=19_999, test=2)
    with pytest.raises(ValueError, match="train and test must be at least 1"):
        cna.arithmetic_set(demo.load(), test=0)
