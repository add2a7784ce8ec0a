"""The score itself: the paper's worked example, and what follows from its definition."""

import pytest
import torch
from hypothesis import given, settings

from tests import synthetic
from tl_neuron_attr.numerics.increase import Increase, read_out, rows_within
from tl_neuron_attr.numerics.readout import Norm, Readout
from tl_neuron_attr.numerics.scores_of_vectors import scores_of_vectors

BEFORE = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
TABLE_1 = [
    ([1, 1, 1, 3], [0.01, 0.02, 0.05, 0.93]),
    ([3, 1, 1, 1], [0.20, 0.07, 0.20, 0.53]),
    ([6, 4, 4, 4], [0.20, 0.07, 0.20, 0.53]),
    ([6, 2, 2, 2], [0.64, 0.03, 0.09, 0.23]),
    ([-6, -2, -2, -2], [0.00, 0.09, 0.24, 0.67]),
]


@pytest.mark.parametrize("values, after", TABLE_1)
def test_the_toy_example_of_table_1(values, after):
    """Four tokens whose unembedding vectors are the axes, so that a vector is its own before-softmax values.

    The paper cuts its figures off after two digits.
    """
    one = torch.ones(4, dtype=torch.float64)
    readout = Readout(
        torch.eye(4, dtype=torch.float64), Norm(one, torch.ones(4, dtype=torch.float64), False), 0 * one, 0 * one
    )
    increase = Increase(readout, BEFORE.repeat(4, 1), torch.arange(4))
    vectors = torch.tensor(values, dtype=torch.float64).repeat(4, 1, 1)
    scores = scores_of_vectors([increase], [vectors])[0][:, 0]
    before = torch.tensor([0.03, 0.09, 0.24, 0.64], dtype=torch.float64)
    torch.testing.assert_close((scores + BEFORE.log_softmax(-1)).exp(), torch.tensor(after).double(), atol=1e-2, rtol=0)
    torch.testing.assert_close(BEFORE.softmax(-1), before, atol=1e-2, rtol=0)


def test_as_many_rows_fit_as_their_logits_and_three_temporaries_take():
    increase, _ = synthetic.large_vocabulary()
    one = 4 * increase.readout.d_vocab * increase.readout.dtype.itemsize
    assert [rows_within(size, increase.readout) for size in (1, one, 2 * one - 1, 7 * one)] == [1, 1, 1, 7]


@settings(max_examples=50)
@given(synthetic.seeds, synthetic.peaks)
def test_zero_scores_zero_and_constants_change_nothing(seed, peak):
    here, rows = synthetic.case(seed, peak=peak)[0][0], torch.arange(2)
    x = torch.randn(2, here.readout.d_vocab, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert here.of_contributions(torch.zeros_like(x), rows).abs().max() < 1e-12
    torch.testing.assert_close(here.of_contributions(x + 3.0, rows), here.of_contributions(x.clone(), rows))


@settings(max_examples=50)
@given(synthetic.seeds, synthetic.peaks)
def test_log_p_is_the_log_softmax_of_the_logits(seed, peak):
    increases, _ = synthetic.case(seed, peak=peak)
    read_out(increases)
    for each in increases:
        torch.testing.assert_close(each.logits, each.readout.logits(each.base))
        torch.testing.assert_close(each.log_p(), each.logits.log_softmax(-1))
        torch.testing.assert_close(each.mean, each.logits.softmax(-1) @ each.readout.W_U.T)


@given(synthetic.seeds)
def test_what_is_known_goes_along_with_selected_prompts(seed):
    increases, _ = synthetic.case(seed, batch=3)
    rows = torch.tensor([2, 0, 2])
    before = increases[0].select(rows)
    after = (increases[0].log_p(), increases[0].select(rows))[1]
    assert "logits" in after.known and "logits" not in before.known
    torch.testing.assert_close(after.log_p(), before.log_p())
