"""Rank, probability and log-probability of a target, by counting."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tl_neuron_attr.evaluate.outcome import Outcome


@given(st.integers(0, 2**31 - 1), st.integers(1, 5), st.integers(2, 30))
def test_outcomes_equal_counting(seed, batch, vocab):
    g = torch.Generator().manual_seed(seed)
    logits, target = torch.randn(batch, vocab, generator=g), torch.randint(0, vocab, (batch,), generator=g)
    found = Outcome.of(logits[:, None], target[:, None]).frame()
    for i, (row, w) in enumerate(zip(logits.tolist(), target.tolist(), strict=True)):
        order = sorted(range(vocab), key=lambda t, row=row: -row[t])
        assert found["rank"][i] == order.index(w) + 1
        p = np.exp(row[w]) / np.exp(row).sum()
        assert found["prob"][i] == pytest.approx(p, rel=1e-4) and found["log_prob"][i] == pytest.approx(
            np.log(p), rel=1e-4
        )
        assert found["reciprocal_rank"][i] == pytest.approx(1 / (order.index(w) + 1))


def test_half_precision_logits_are_normalised_in_float32():
    logits = torch.randn(1, 5000).bfloat16()
    assert Outcome.of(logits[:, None], torch.tensor([[3]])).log_prob.dtype == torch.float32


def test_an_answer_ranks_as_its_worst_token_and_is_as_likely_as_all_its_tokens_together():
    logits = torch.randn(2, 3, 30, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([[4, 5, 6], [7, 7, 8]])
    found = Outcome.of(logits, target).frame()
    for i, (rows, answer) in enumerate(zip(logits.double().softmax(-1), target.tolist(), strict=True)):
        each = [(row.tolist(), float(row[w])) for row, w in zip(rows, answer, strict=True)]
        assert found["rank"][i] == max(1 + sum(other > p for other in row) for row, p in each)
        assert found["prob"][i] == pytest.approx(np.prod([p for _, p in each]), rel=1e-5)
        assert found["log_prob"][i] == pytest.approx(sum(np.log(p) for _, p in each), rel=1e-5)
