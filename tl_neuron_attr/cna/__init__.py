"""Comparative neuron analysis (paper 3): what an intervention broke, and how arithmetic gets from digits to answer."""

from tl_neuron_attr.cna.accuracy import HeadAccuracy, head_accuracy
from tl_neuron_attr.cna.answered import answered
from tl_neuron_attr.cna.arithmetic_cases import (
    TEMPLATES,
    Case,
    Problem,
    arithmetic_cases,
    problems,
    prompt_cases,
    written,
)
from tl_neuron_attr.cna.arithmetic_set import arithmetic_set
from tl_neuron_attr.cna.bias_neurons import bias_neurons
from tl_neuron_attr.cna.bias_report import BiasReport, bias_report
from tl_neuron_attr.cna.capabilities import Guard, SafeNeurons, safe_neurons
from tl_neuron_attr.cna.changed_neurons import changed_neurons
from tl_neuron_attr.cna.checkpoints import save_checkpoint
from tl_neuron_attr.cna.coefficients import CoefficientIncrease, coefficient_increase
from tl_neuron_attr.cna.compare_neurons import compare_neurons
from tl_neuron_attr.cna.concepts import ConceptNeurons, ZeroShot, concept_neurons, zero_shot
from tl_neuron_attr.cna.feature_enhancing import FeatureEnhancing, feature_enhancing
from tl_neuron_attr.cna.feature_predicting import (
    KS,
    FeaturePredicting,
    MaskKeepCoef,
    feature_predicting,
    mask_keep_coef,
)
from tl_neuron_attr.cna.feature_transferring import FeatureTransferring, Hop, feature_transferring
from tl_neuron_attr.cna.head_effects import HeadEffects, head_effects
from tl_neuron_attr.cna.logic_chain import LogicChain, logic_chain
from tl_neuron_attr.cna.logic_chains import LogicChains, logic_chains
from tl_neuron_attr.cna.lora import Adapter, train_lora
from tl_neuron_attr.cna.neuron_coefficients import neuron_coefficients
from tl_neuron_attr.cna.neuron_comparison import NeuronComparison
from tl_neuron_attr.cna.prediction_enhancing import PredictionEnhancing, RootMasking, prediction_enhancing, root_masking
from tl_neuron_attr.cna.pruning import Removal, prune_mlp
from tl_neuron_attr.cna.pruning_experiment import PruningExperiment, amplified, pruning_experiment
from tl_neuron_attr.cna.random_adapter import random_adapter
from tl_neuron_attr.cna.whole_answers import WholeAnswers, whole_answers

__all__ = [
    "KS",
    "TEMPLATES",
    "Adapter",
    "BiasReport",
    "Case",
    "CoefficientIncrease",
    "ConceptNeurons",
    "FeatureEnhancing",
    "FeaturePredicting",
    "FeatureTransferring",
    "Guard",
    "HeadAccuracy",
    "HeadEffects",
    "Hop",
    "LogicChain",
    "LogicChains",
    "MaskKeepCoef",
    "NeuronComparison",
    "PredictionEnhancing",
    "Problem",
    "PruningExperiment",
    "Removal",
    "RootMasking",
    "SafeNeurons",
    "WholeAnswers",
    "ZeroShot",
    "amplified",
    "answered",
    "arithmetic_cases",
    "arithmetic_set",
    "bias_neurons",
    "bias_report",
    "changed_neurons",
    "coefficient_increase",
    "compare_neurons",
    "concept_neurons",
    "feature_enhancing",
    "feature_predicting",
    "feature_transferring",
    "head_accuracy",
    "head_effects",
    "logic_chain",
    "logic_chains",
    "mask_keep_coef",
    "neuron_coefficients",
    "prediction_enhancing",
    "problems",
    "prompt_cases",
    "prune_mlp",
    "pruning_experiment",
    "random_adapter",
    "root_masking",
    "safe_neurons",
    "save_checkpoint",
    "train_lora",
    "whole_answers",
    "written",
    "zero_shot",
]
