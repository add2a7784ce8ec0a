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
from tl_neuron_attr.cna.enhancing import PredictionEnhancing, RootMasking, prediction_enhancing, root_masking
from tl_neuron_attr.cna.predicting import FeaturePredicting, MaskKeepCoef, feature_predicting, mask_keep_coef
from tl_neuron_attr.cna.transferring import FeatureTransferring, Hop, feature_transferring

__all__ = [
    "TEMPLATES",
    "Case",
    "FeaturePredicting",
    "FeatureTransferring",
    "HeadAccuracy",
    "HeadEffects",
    "Hop",
    "MaskKeepCoef",
    "NeuronComparison",
    "PredictionEnhancing",
    "Problem",
    "RootMasking",
    "answered",
    "arithmetic_cases",
    "compare_neurons",
    "feature_predicting",
    "feature_transferring",
    "head_accuracy",
    "head_effects",
    "mask_keep_coef",
    "prediction_enhancing",
    "problems",
    "prompt_cases",
    "root_masking",
    "written",
]
