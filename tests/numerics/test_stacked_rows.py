"""Matrices one below another against one matrix that holds them all."""

import pytest
import torch

from tl_neuron_attr.numerics.stacked_rows import StackedRows

SIZES = (3, 1, 5)


@pytest.fixture
def blocks():
    torch.manual_seed(0)
    return [torch.randn(6, n, dtype=torch.float64).T for n in SIZES]  # views with the layout of a down projection


def test_rows_are_those_of_the_matrix_that_holds_them_all(blocks):
    stacked, whole = StackedRows(blocks), torch.cat(blocks)
    assert len(stacked) == 9 and stacked.shape == whole.shape and stacked.dtype == whole.dtype
    listed = torch.tensor([8, 0, 3, 3, 2])
    assert torch.equal(stacked[listed], whole[listed])
    assert torch.equal(stacked[4], whole[4])
    for start in range(10):
        for stop in (None, *range(10)):
            assert torch.equal(stacked[start:stop], whole[start:stop])


def test_a_row_belongs_to_its_matrix(blocks):
    stacked = StackedRows(blocks)
    assert stacked.starts == (0, 3, 4)
    assert stacked.block_of(torch.arange(9)).tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 2]


def test_products_leave_out_matrices_of_which_no_row_is_wanted(blocks):
    stacked, vectors = StackedRows(blocks), torch.randn(4, 6, dtype=torch.float64)
    expected = vectors @ torch.cat(blocks).T
    torch.testing.assert_close(stacked.products(vectors, torch.ones(9).bool()), expected, rtol=0, atol=1e-12)
    wanted = torch.zeros(9).bool()
    wanted[6] = True
    found = stacked.products(vectors, wanted)
    torch.testing.assert_close(found[:, 4:], expected[:, 4:], rtol=0, atol=1e-12)
    assert not found[:, :4].any()


def test_nothing_is_copied(blocks):
    stacked = StackedRows(blocks)
    assert all(own.data_ptr() == given.data_ptr() for own, given in zip(stacked.blocks, blocks, strict=True))
