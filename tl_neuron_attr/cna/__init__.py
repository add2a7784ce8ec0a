"""Comparative neuron analysis (paper 3): what an intervention broke, and how arithmetic gets from digits to answer."""

from tl_neuron_attr.cna.accuracy import HeadAccuracy, head_accuracy
from tl_neuron_attr.cna.cases import (
    TEMPLATES,
    Case,
    Problem,
    answered,
    arithmetic_cases,
    problems,
    prompt_cases,
    written,
)
from tl_neuron_attr.cna.compare import NeuronComparison, compare_neurons
from tl_neuron_attr.cna.effects import HeadEffects, head_effects

__all__ = [
    "TEMPLATES",
    "Case",
    "HeadAccuracy",
    "HeadEffects",
    "NeuronComparison",
    "Problem",
    "answered",
    "arithmetic_cases",
    "compare_neurons",
    "head_accuracy",
    "head_effects",
    "problems",
    "prompt_cases",
    "written",
]
