"""In-context heads are two towers (paper 2): find them, see what they copy and compare, correct their biases.

The body of paper 2 was not available to the authors of this package. Docstrings name what is second-hand (known from a
summary) and what is derived here.
"""

from tl_neuron_attr.incontext.attention_shift import AttentionShift, attention_shift
from tl_neuron_attr.incontext.examples import Example, ExampleFile, from_demo, icl_prompts, read_examples
from tl_neuron_attr.incontext.icl_batches import IclBatch, batch_of, icl_batches
from tl_neuron_attr.incontext.icl_biases import IclBiases, icl_biases
from tl_neuron_attr.incontext.icl_prompt import IclPrompt, icl_prompt
from tl_neuron_attr.incontext.in_context_heads import InContextHeads, in_context_heads
from tl_neuron_attr.incontext.induction import (
    FunctionVector,
    VectorEffect,
    function_vector,
    prefix_matching,
    vector_effect,
)
from tl_neuron_attr.incontext.label_values import label_attention, label_logit_difference
from tl_neuron_attr.incontext.learned_metric import LearnedMetric, learned_metric
from tl_neuron_attr.incontext.majority_correction import majority_correction
from tl_neuron_attr.incontext.outcomes import Outcomes, outcomes, outcomes_without
from tl_neuron_attr.incontext.position_free_attention import position_free_attention
from tl_neuron_attr.incontext.two_towers import TwoTowers, label_scores, needed_by_towers, two_towers
from tl_neuron_attr.incontext.variants import arranged, balanced, one_removed, reordered, reversed_labels, with_query

__all__ = [
    "AttentionShift",
    "Example",
    "ExampleFile",
    "FunctionVector",
    "IclBatch",
    "IclBiases",
    "IclPrompt",
    "InContextHeads",
    "LearnedMetric",
    "Outcomes",
    "TwoTowers",
    "VectorEffect",
    "arranged",
    "attention_shift",
    "balanced",
    "batch_of",
    "from_demo",
    "function_vector",
    "icl_batches",
    "icl_biases",
    "icl_prompt",
    "icl_prompts",
    "in_context_heads",
    "label_attention",
    "label_logit_difference",
    "label_scores",
    "learned_metric",
    "majority_correction",
    "needed_by_towers",
    "one_removed",
    "outcomes",
    "outcomes_without",
    "position_free_attention",
    "prefix_matching",
    "read_examples",
    "reordered",
    "reversed_labels",
    "two_towers",
    "vector_effect",
    "with_query",
]
