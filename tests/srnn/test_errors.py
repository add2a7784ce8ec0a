"""Every fault a user can make: the message names the argument, what it was, and what would do."""

import pytest
import torch
from torch import nn

from tl_neuron_attr.srnn import SRNN, KerasGRU, LinearRNN, from_linear_rnn

pytestmark = pytest.mark.usefixtures("as_installed")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"n": 1}, ValueError, "n must be at least 2, got 1"),
        ({"n": [4, 1]}, ValueError, "n must be at least 2, got 1"),
        ({"n": 2.0}, TypeError, "n must be an integer or a list of integers, got 2.0"),
        ({"n": [2.0, 2]}, TypeError, "n must be an integer, got 2.0"),
        ({"n": True}, TypeError, "n must be an integer, got True"),
        ({"k": -1}, ValueError, "k must be at least 0, got -1"),
        ({"k": 1.0}, TypeError, "k must be an integer, got 1.0"),
        ({"n": [4, 4], "k": 3}, ValueError, r"k=3 contradicts n=\[4, 4\], which cuts 2 times: leave k out"),
        ({"input_size": 0}, ValueError, "input_size must be at least 1, got 0"),
        ({"hidden_size": -4}, ValueError, "hidden_size must be at least 1, got -4"),
        ({"num_layers": 0}, ValueError, "num_layers must be at least 1, got 0"),
        ({"slice_len": 0}, ValueError, "slice_len must be at least 1, got 0"),
        ({"slice_len": 4, "k": 0}, ValueError, "slice_len=4 has no meaning with k=0"),
        ({"slice_len": 4, "padding": "left"}, ValueError, "padding='left' excludes slice_len"),
        ({"padding": "front"}, ValueError, "padding must be one of 'none', 'left', 'right', got 'front'"),
        ({"dropout": 1.5}, ValueError, "dropout must be between 0 and 1, got 1.5"),
        ({"cell": "sru"}, ValueError, "cell must be one of 'gru', 'lstm', 'rnn', 'keras_gru' or a factory, got 'sru'"),
        ({"cell": 3}, TypeError, "cell must be a name or a factory called as torch.nn.GRU is, got 3"),
    ],
)
def test_arguments(options, error, words):
    with pytest.raises(error, match=words):
        SRNN(**{"input_size": 3, "hidden_size": 4} | options)


def test_a_cell_that_cannot_read_rows_of_different_lengths_backwards_says_so():
    class Twice(nn.Module):
        def __init__(self, *sizes, **options):
            super().__init__()
            self.inner = nn.GRU(*sizes, **options)

        def forward(self, x, h_0=None):
            return self.inner(x, h_0)

    srnn = SRNN(3, 4, n=2, k=1, cell=Twice, slice_len=3, bidirectional=True)
    assert srnn(torch.randn(2, 6, 3))[0].shape == (2, 8)
    with pytest.raises(ValueError, match="need a cell that takes a PackedSequence, got Twice"):
        srnn(torch.randn(2, 7, 3))


@pytest.mark.parametrize(
    ("rnn", "T", "error", "words"),
    [
        (nn.GRU(3, 4), 8, TypeError, "rnn must be a LinearRNN.*got a GRU"),
        (KerasGRU(3, 4), 8, TypeError, "rnn must be a LinearRNN.*got a KerasGRU"),
        (LinearRNN(3, 4, num_layers=2), 8, ValueError, "one layer and one direction, got 2 x 1"),
        (LinearRNN(3, 4, bidirectional=True), 8, ValueError, "one layer and one direction, got 1 x 2"),
        (LinearRNN(3, 4), 10, ValueError, r"T must be a multiple of 4 \(n=\[2, 2\]\), got 10: the next is 12"),
        (LinearRNN(3, 4), 0, ValueError, "T must be at least 1, got 0"),
    ],
)
def test_the_theorem_s_constructor(rnn, T, error, words):
    with pytest.raises(error, match=words):
        from_linear_rnn(rnn, n=2, k=2, T=T)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"T": 0}, ValueError, "T must be at least 1, got 0"),
        ({"T": 8.0}, TypeError, "T must be an integer, got 8.0"),
        ({"T": 8, "max_k": -1}, ValueError, "max_k must be at least 0, got -1"),
        ({"T": 8, "runs": 0}, ValueError, "runs must be at least 1, got 0"),
    ],
)
def test_suggest(options, error, words):
    with pytest.raises(error, match=words):
        SRNN.suggest(**options)
