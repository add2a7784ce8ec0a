"""Sliced recurrent networks (paper 4, COLING 2018); they need only the type checks from the rest of the package."""

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
