"""What a module is given: the message names the argument, its value or shape, and the fix."""

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from tl_neuron_attr.srnn import SRNN

pytestmark = pytest.mark.usefixtures("as_installed")


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.randn(8, 3), r"x must be \[batch, step, feature\], got shape \[8, 3\]: for one sequence give x\[None\]"),
        (torch.randn(1, 2, 8, 3), r"x must be \[batch, step, feature\], got shape \[1, 2, 8, 3\]"),
        (torch.randn(2, 8, 5), r"input_size=3 features in its last dimension, got shape \[2, 8, 5\]"),
        (torch.randn(2, 0, 3), r"at least one sequence of at least one step.*got shape \[2, 0, 3\]"),
        (torch.randn(0, 8, 3), r"at least one sequence of at least one step.*got shape \[0, 8, 3\]"),
        (
            torch.randn(2, 10, 3),
            r"steps of x must be a multiple of 4 \(n=\[2, 2\]\), got 10: set slice_len .* padding=",
        ),
        (torch.randn(2, 8, 3, device="meta"), "x is on meta, the weights are on cpu"),
        (torch.randn(2, 8, 3, dtype=torch.float64), "x is torch.float64, the weights are torch.float32"),
        (torch.ones(2, 8, 3, dtype=torch.long), "x is torch.int64, the weights are torch.float32"),
    ],
)
def test_inputs(x, words):
    with pytest.raises(ValueError, match=words):
        SRNN(3, 4, n=2, k=2)(x)


def test_the_layout_in_a_message_is_the_module_s():
    with pytest.raises(ValueError, match=r"x must hold .* \[step, batch, feature\], got shape \[0, 2, 3\]"):
        SRNN(3, 4, n=2, k=2, batch_first=False)(torch.randn(0, 2, 3))


@pytest.mark.parametrize(
    ("lengths", "error", "words"),
    [
        ([8, 9], ValueError, "lengths must be between 1 and the 8 steps of x, got 9"),
        ([0, 8], ValueError, "lengths must be between 1 and the 8 steps of x, got 0"),
        ([-1, 8], ValueError, "lengths must be between 1 and the 8 steps of x, got -1"),
        ([8], ValueError, r"lengths must be one for each of the 2 sequences, got shape \[1\]"),
        ([[8, 8]], ValueError, r"lengths must be one for each of the 2 sequences, got shape \[1, 2\]"),
        ([8.0, 8.0], TypeError, "lengths must hold integers, got torch.float32"),
        ([True, True], TypeError, "lengths must hold integers, got torch.bool"),
    ],
)
def test_lengths(lengths, error, words):
    with pytest.raises(error, match=words):
        SRNN(3, 4, n=2, k=2, slice_len=2)(torch.randn(2, 8, 3), lengths=torch.tensor(lengths))


@pytest.mark.parametrize(
    ("h_0", "words"),
    [
        (torch.zeros(2, 4), r"h_0 starts the top level: it must be \[1, 2, 4\], got shape \[2, 4\]"),
        (torch.zeros(1, 8, 4), r"it must be \[1, 2, 4\], got shape \[1, 8, 4\]"),
        (torch.zeros(1, 2, 4, device="meta"), "h_0 is on meta, the weights are on cpu"),
        (torch.zeros(1, 2, 4, dtype=torch.float64), "h_0 is torch.float64, the weights are torch.float32"),
    ],
)
@pytest.mark.parametrize("cell", ["gru", "keras_gru"])
def test_initial_states(h_0, words, cell):
    with pytest.raises(ValueError, match=words):
        SRNN(3, 4, n=2, k=2, cell=cell)(torch.randn(2, 8, 3), h_0=h_0)


def test_an_lstm_starts_from_a_pair_and_others_from_a_tensor():
    h_0, x = torch.zeros(1, 2, 4), torch.randn(2, 8, 3)
    with pytest.raises(ValueError, match=r"it must be \[1, 2, 4\], got shape \[9, 2, 4\]"):
        SRNN(3, 4, n=2, k=2, cell="lstm")(x, h_0=(h_0, torch.zeros(9, 2, 4)))
    with pytest.raises(TypeError, match=r"h_0 must be a pair \(h, c\) for an LSTM, got a tensor"):
        SRNN(3, 4, n=2, k=2, cell="lstm")(x, h_0=h_0)
    with pytest.raises(TypeError, match="h_0 must be a tensor for GRU, got a tuple"):
        SRNN(3, 4, n=2, k=2)(x, h_0=(h_0, h_0))


def test_lengths_of_a_packed_sequence_are_its_own():
    packed = pack_sequence([torch.randn(4, 3)])
    with pytest.raises(ValueError, match="lengths must be left out with a PackedSequence"):
        SRNN(3, 4, n=2, k=1, slice_len=2)(packed, lengths=torch.tensor([4]))


def test_lengths_exclude_left_padding():
    with pytest.raises(ValueError, match="lengths must be left out with padding='left'"):
        SRNN(3, 4, n=2, k=1, padding="left")(torch.randn(2, 8, 3), lengths=torch.tensor([8, 3]))
