import math
from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import synthetic
from tl_neuron_attr.numerics.every_neuron import RADIUS, direction_chunks, neuron_scores, terms
from tl_neuron_attr.numerics.sublayer import Sublayer


@settings(max_examples=80)
@given(
    synthetic.seeds,
    synthetic.peaks,
    st.sampled_from([1e-4, 0.05, 1.0]),
    st.integers(1, 12),
    st.sampled_from([1, 2000, 2**28]),
)
def test_equals_brute_force_with_and_without_the_series(seed, peak, size, batch, max_bytes):
    increases, subs = synthetic.case(seed, batch=batch, peak=peak, size=size)
    for increase, sub, expected in zip(increases, subs, synthetic.brute_force(increases, subs), strict=True):
        got = neuron_scores(increase, sub, max_bytes=max_bytes)
        torch.testing.assert_close(got, expected, atol=1e-9, rtol=0)
        assert got[sub.coefficients == 0].eq(0).all()


def test_contributions_of_every_size_are_exact():
    """Coefficients from far below the series' radius to far beyond what ``exp`` alone could take."""
    increases, subs = synthetic.case(7, batch=10, peak=3.0)
    increase, sub = increases[1], subs[1]
    for size in (1e-6, 1e-3, 0.1, 1.0, 10.0, 1e3):
        scaled = replace(sub, coefficients=size * torch.randn_like(sub.coefficients))
        got = neuron_scores(increase, scaled)
        expected = synthetic.brute_force([increase], [scaled])[0]
        torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-12)


def test_a_coefficient_that_is_not_a_number_is_never_scored_as_one():
    increases, subs = synthetic.case(7, batch=10)
    broken = replace(subs[1], coefficients=subs[1].coefficients.index_fill(1, torch.tensor([0]), torch.nan))
    assert neuron_scores(increases[1], broken)[:, 0].isnan().all()
    assert neuron_scores(increases[1].select(torch.tensor([0])), broken.select(torch.tensor([0])))[:, 0].isnan().all()


@given(st.floats(1e-6, 1 / 3), st.sampled_from([1e-8, 1e-17]))
def test_the_terms_left_out_are_below_what_is_allowed(radius, rest):
    k = terms(radius, rest)
    left_out = math.exp(radius) - sum(radius**i / math.factorial(i) for i in range(k))
    assert left_out / math.exp(-radius) <= rest + 1e-15  # what float64 itself rounds


def test_the_series_is_exact_up_to_the_edge_of_its_radius():
    increases, subs = synthetic.case(2, batch=16, peak=3.0)
    increase, sub = increases[1], subs[1]
    chunk = increase.readout.project(sub.unscaled_directions())
    reach = (chunk.max(1).values - chunk.min(1).values) / 2
    share = torch.linspace(-1, 1, 16, dtype=torch.float64)[:, None, None]
    edge = share * RADIUS / (reach[:, None] * (sub.gain if isinstance(sub.gain, float) else sub.gain[0]))

    one_gain = replace(
        increase.readout.norm, scale=torch.full_like(increase.readout.norm.scale, increase.readout.multiplier)
    )
    increase = replace(increase, readout=replace(increase.readout, norm=one_gain), known={})
    at_edge = replace(sub, coefficients=edge)
    got = neuron_scores(increase, at_edge)
    expected = synthetic.brute_force([increase], [at_edge])[0]
    torch.testing.assert_close(got, expected, atol=1e-13, rtol=0)


def test_float32_at_a_vocabulary_of_262144_stays_within_1e_5_nats():
    increase, g = synthetic.large_vocabulary()
    rows, d = increase.base.shape
    directions, silence = torch.randn(20, d, generator=g), torch.zeros(rows, d)
    coefficients = torch.tensor([0.01, 0.1, 0.5, 1.0])[:, None, None] * torch.randn(rows, 20, 1, generator=g)
    sub = Sublayer("mlp", 0, increase.base, silence, silence, directions, coefficients, heads=1)
    for chosen in ([0, 1, 2, 3], [2], [3]):
        some = torch.tensor(chosen)
        got = neuron_scores(increase.select(some), sub.select(some))[..., 0]
        for scores, row in zip(got, chosen, strict=True):
            error = scores - synthetic.by_log_softmax(increase, row, directions * coefficients[row])
            assert error.abs().max() < 1e-5, row


def test_a_chunk_holds_as_many_directions_as_fit_and_no_more():
    increases, subs = synthetic.case(7)
    readout, sub = increases[1].readout, subs[1]
    row = 4 * readout.d_vocab * readout.dtype.itemsize  # logits and three temporaries
    whole = readout.project(sub.unscaled_directions())
    for rows, cap in ((1, 1), (2, 2 * row), (sub.width, 2**30)):
        chunks = [(at, logits.clone()) for at, logits in direction_chunks(readout, sub, max_bytes=cap)]
        assert {len(logits) for _, logits in chunks[:-1]} <= {rows} and len(chunks) == -(-sub.width // rows)
        torch.testing.assert_close(torch.cat([logits for _, logits in chunks]), whole)
