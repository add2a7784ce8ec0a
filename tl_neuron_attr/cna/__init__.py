"""Comparative neuron analysis (paper 3): what an intervention broke, and how arithmetic gets from digits to answer."""

from tl_neuron_attr.cna.compare import NeuronComparison, compare_neurons

__all__ = ["NeuronComparison", "compare_neurons"]
