"""Sliced recurrent neural networks (paper 4, COLING 2018); stands alone: of the rest of the package it imports only the type checks."""

from tl_neuron_attr.srnn.cells import KerasGRU, LinearRNN
from tl_neuron_attr.srnn.classifier import SRNNClassifier
from tl_neuron_attr.srnn.linear import from_linear_rnn
from tl_neuron_attr.srnn.module import SRNN
from tl_neuron_attr.srnn.slicing import sequential_steps, time_ratio
from tl_neuron_attr.srnn.suggest import Suggestion

__all__ = [
    "SRNN",
    "KerasGRU",
    "LinearRNN",
    "SRNNClassifier",
    "Suggestion",
    "from_linear_rnn",
    "sequential_steps",
    "time_ratio",
]
