import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_neuron_attr.srnn import SRNN


@settings(max_examples=60)
@given(T=st.integers(1, 3000), max_k=st.integers(0, 6))
def test_no_other_n_and_k_has_fewer_steps(T, max_k):
    suggestion = SRNN.suggest(T, max_k=max_k)
    every = [n * k - (-T // n**k) for k in range(1, max_k + 1) for n in range(2, T + 1) if n**k <= T]
    assert suggestion.best.steps == min([T, *every])
    assert [c.steps for c in suggestion.candidates] == sorted(c.steps for c in suggestion.candidates)
    assert suggestion.best.ratio == suggestion.best.steps / T


@settings(max_examples=30)
@given(T=st.integers(1, 200))
def test_every_candidate_reads_sequences_of_that_length(T):
    for candidate in SRNN.suggest(T).candidates:
        last, states = SRNN(3, 4, **candidate.options)(torch.randn(1, T, 3))
        assert last.shape == (1, 4) and len(states) == candidate.k + 1


def test_the_paper_s_lengths():
    """At T = 512 its SRNN(2, 8) has 18 steps; so has (4, 4), with half the levels."""
    assert SRNN.suggest(512).options == {"n": 4, "k": 4, "slice_len": 2}
    assert SRNN.suggest(512).best.steps == 2 * 8 + 2
    assert SRNN.suggest(7).best.steps < 7


def test_measured_candidates_are_in_the_order_of_their_times():
    suggestion = SRNN.suggest(256, max_k=3, measure=True, input_size=4, hidden_size=4, runs=3)
    timed = [c.seconds for c in suggestion.candidates if c.seconds is not None]
    assert timed == sorted(timed) and timed[0] > 0
    assert suggestion.best.k > 0  # 256 steps one after another take longer than any sliced run
    assert "batch 1, 4 to 4 features, forward + backward on cpu" in str(suggestion)
    assert len(str(suggestion).splitlines()) == 2 + len(suggestion.candidates)


def test_measuring_the_forward_pass_only():
    suggestion = SRNN.suggest(64, max_k=1, measure=True, input_size=4, hidden_size=4, runs=1, backward=False)
    assert "features, forward on cpu" in str(suggestion)


def test_of_equals_the_one_that_divides():
    """(2, 1) and (3, 1) both have 4 steps for T = 3."""
    assert SRNN.suggest(3, max_k=1).candidates[1].n == 3


@pytest.mark.parametrize("T", [1, 2, 3])
def test_short_sequences_have_a_suggestion_too(T):
    assert SRNN.suggest(T).best.steps <= T
