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
    found = Outcome.of(logits, target).frame()
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
    assert Outcome.of(logits, torch.tensor([3])).log_prob.dtype == torch.float32
