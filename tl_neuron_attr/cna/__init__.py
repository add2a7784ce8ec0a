"""Comparative neuron analysis (paper 3): what an intervention broke, and how arithmetic gets from digits to answer."""

from tl_neuron_attr.cna.compare import NeuronComparison, compare_neurons
from tl_neuron_attr.cna.effects import HeadEffects, head_effects

__all__ = ["HeadEffects", "NeuronComparison", "compare_neurons", "head_effects"]
