from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import synthetic
from tl_neuron_attr.numerics.readout import Readout


@settings(max_examples=50)
@given(synthetic.seeds)
def test_the_adjoint_is_the_transpose(seed):
    g = torch.Generator().manual_seed(seed)
    for centred in (True, False):
        norm = synthetic.norm(g, 7, 2, centred)
        u, v = torch.randn(2, 7, generator=g, dtype=torch.float64)
        torch.testing.assert_close(norm.adjoint(u) @ v, u @ norm.apply_unscaled(v))


@settings(max_examples=50)
@given(synthetic.seeds)
def test_contributions_add_up_to_the_logits(seed):
    g = torch.Generator().manual_seed(seed)
    readout = synthetic.readout(g, 6, 11, 2)
    parts = torch.randn(2, 5, 6, generator=g, dtype=torch.float64)
    whole, silence = readout.logits(parts.sum(1)), readout.logits(torch.zeros(2, 6, dtype=torch.float64))
    torch.testing.assert_close(readout.contributions(parts).sum(1) + silence, whole)


@given(synthetic.seeds, st.integers(1, 20))
def test_chunks_in_a_row_are_the_unembedding(seed, width):
    readout = synthetic.readout(torch.Generator().manual_seed(seed), 6, 11, 1)
    tokens, parts = zip(*readout.chunks(width), strict=True)
    assert [i for part in tokens for i in range(11)[part]] == list(range(11))
    assert torch.equal(torch.cat(parts, dim=1), readout.W_U)


def test_half_precision_weights_are_read_out_in_float32():
    g = torch.Generator().manual_seed(0)
    full = synthetic.readout(g, 6, 20_000, 1)
    half = full.W_U.bfloat16()
    readout = replace(full, W_U=half, norm=replace(full.norm, weight=full.norm.weight.float()))
    v = torch.randn(6, generator=g)
    torch.testing.assert_close(readout.unembed(v), v @ half.float())
    assert all(part.dtype == torch.float32 for _, part in readout.chunks(8192))


def test_a_readout_neither_scales_nor_caps_logits_unless_told():
    g = torch.Generator().manual_seed(0)
    full = synthetic.readout(g, 6, 11, 2)
    plain = Readout(full.W_U, full.norm, full.norm_bias, full.b_U)
    stream = torch.randn(2, 6, generator=g, dtype=torch.float64)
    logits = (full.norm(stream) + full.norm_bias) @ full.W_U + full.b_U
    torch.testing.assert_close(plain.logits(stream), logits)
    tripled = replace(plain, multiplier=3.0)
    torch.testing.assert_close(tripled.logits(stream), 3 * logits)


def test_log_probabilities_of_any_shape_are_normalised_over_the_vocabulary_after_the_cap():
    g = torch.Generator().manual_seed(0)
    plain = synthetic.readout(g, 6, 11, 1)
    capped = replace(plain, transform=lambda logits: 2 * (logits / 2).tanh())
    logits = 4 * torch.randn(3, 5, 11, generator=g, dtype=torch.float64)
    for readout, changed in ((plain, logits), (capped, 2 * (logits / 2).tanh())):
        expected = changed - changed.exp().sum(-1, keepdim=True).log()
        torch.testing.assert_close(readout.finish(logits), expected)
