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
from tl_neuron_attr.cna.chain import LogicChain, logic_chain
from tl_neuron_attr.cna.compare import NeuronComparison, compare_neurons
from tl_neuron_attr.cna.concepts import ConceptNeurons, ZeroShot, concept_neurons, zero_shot
from tl_neuron_attr.cna.effects import HeadEffects, head_effects
from tl_neuron_attr.cna.enhancing import PredictionEnhancing, RootMasking, prediction_enhancing, root_masking
from tl_neuron_attr.cna.predicting import KS, FeaturePredicting, MaskKeepCoef, feature_predicting, mask_keep_coef
from tl_neuron_attr.cna.shallow import FeatureEnhancing, feature_enhancing
from tl_neuron_attr.cna.transferring import FeatureTransferring, Hop, feature_transferring

__all__ = [
    "KS",
    "TEMPLATES",
    "Case",
    "ConceptNeurons",
    "FeatureEnhancing",
    "FeaturePredicting",
    "FeatureTransferring",
    "HeadAccuracy",
    "HeadEffects",
    "Hop",
    "LogicChain",
    "MaskKeepCoef",
    "NeuronComparison",
    "PredictionEnhancing",
    "Problem",
    "RootMasking",
    "ZeroShot",
    "answered",
    "arithmetic_cases",
    "compare_neurons",
    "concept_neurons",
    "feature_enhancing",
    "feature_predicting",
    "feature_transferring",
    "head_accuracy",
    "head_effects",
    "logic_chain",
    "mask_keep_coef",
    "prediction_enhancing",
    "problems",
    "prompt_cases",
    "root_masking",
    "written",
    "zero_shot",
]
