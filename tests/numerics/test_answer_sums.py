"""Scores of tokens added up to scores of answers."""

import pytest
import torch

from tl_neuron_attr.numerics.answer_sums import AnswerSums

BASE = torch.tensor([[0.2], [0.5], [0.1], [0.4]], dtype=torch.float64).log()
"""Probabilities of four tokens."""


def sums(answer, result, sign):
    return AnswerSums(torch.tensor(answer), torch.tensor(result), torch.tensor(sign))


def scores(after):
    return torch.tensor(after, dtype=torch.float64)[:, None].log() - BASE


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (sums([0, 0, 1, 1], [0, 1], [1, 1]), [0.3 * 0.6 / (0.2 * 0.5), 0.2 * 0.8 / (0.1 * 0.4)]),
        (sums([0, 0, 1, 1], [0, 0], [1, -1]), [0.3 * 0.6 / (0.2 * 0.5) / (0.2 * 0.8 / (0.1 * 0.4))]),
        (sums([0, 0, 1, 2], [0, 0, 0], [1, 1, 1]), [(0.3 * 0.6 + 0.2 + 0.8) / (0.2 * 0.5 + 0.1 + 0.4)]),
        (sums([0, 1, 2, 3], [0, 0, 0, 0], [1, 1, -1, -1]), [(0.3 + 0.6) / (0.2 + 0.5) / ((0.2 + 0.8) / (0.1 + 0.4))]),
    ],
    ids=["two answers", "one against the other", "any of three", "any of two against any of two"],
)
def test_a_result_is_the_change_of_the_log_of_what_is_followed(answers, expected):
    found = answers(scores([0.3, 0.6, 0.2, 0.8]), None if answers.additive else BASE)
    torch.testing.assert_close(found[:, 0].exp(), torch.tensor(expected, dtype=torch.float64))


def test_huge_scores_do_not_overflow():
    found = sums([0, 1], [0, 0], [1, 1])(torch.tensor([[900.0], [-900.0]]), torch.tensor([[-1.0], [-2.0]]))
    assert float(found) == pytest.approx(900 - 1 - float(torch.tensor([-1.0, -2.0]).logsumexp(0)), abs=1e-3)


def test_some_results_are_selected_with_their_places():
    three = sums([0, 0, 1, 2, 3, 3], [0, 1, 1, 2], [1, 1, -1, 1])
    places, own = three.select(torch.tensor([1, 2]))
    assert places.tolist() == [2, 3, 4, 5]
    assert (own.answer.tolist(), own.result.tolist(), own.sign.tolist()) == ([0, 1, 2, 2], [0, 0, 1], [1, -1, 1])
    assert len(own) == 2 and own.additive


def test_whether_scores_simply_add_up():
    assert sums([0, 1], [0, 0], [1, -1]).additive
    assert not sums([0, 1], [0, 0], [1, 1]).additive
