from dataclasses import replace

import pytest
import torch

from tests import synthetic
from tl_neuron_attr.numerics import vocabulary_scatter as module
from tl_neuron_attr.numerics.vocabulary_scatter import squared_lengths, vocabulary_scatter


@pytest.fixture
def readout():
    return synthetic.readout(torch.Generator().manual_seed(0), 7, 30, 2)


def expected(W_U):
    centred = W_U - W_U.mean(1, keepdim=True)
    return W_U.mean(1), sum(torch.outer(column, column) for column in centred.T)


@pytest.mark.parametrize("width", [4, 30, 1024])
def test_it_is_the_sum_of_outer_products(readout, monkeypatch, width):
    monkeypatch.setattr(module, "WIDTH", width)
    for found, right in zip(vocabulary_scatter(readout), expected(readout.W_U), strict=True):
        torch.testing.assert_close(found, right)
    torch.testing.assert_close(squared_lengths(readout), readout.W_U.square().sum(0))


def test_it_is_found_once_for_all_readouts_of_a_model(readout):
    first = vocabulary_scatter(readout)[1]
    assert vocabulary_scatter(readout.select(torch.tensor([1])))[1] is first
    assert vocabulary_scatter(replace(readout, kept={}))[1] is not first


def test_an_edited_unembedding_has_a_scatter_of_its_own(readout):
    before = vocabulary_scatter(readout)[1].clone()
    readout.W_U.data[3, 11] += 1e-6  # leaves no trace in autograd's count of changes
    found = vocabulary_scatter(readout)[1]
    assert not torch.equal(found, before)
    torch.testing.assert_close(found, expected(readout.W_U)[1])
    narrowed = replace(readout, W_U=readout.W_U.float(), norm=replace(readout.norm, weight=readout.norm.weight.float()))
    assert vocabulary_scatter(narrowed)[1].dtype == torch.float32
