"""Show the numbers: views for notebooks, and one self-contained page.

Every view is offline and escaped: token text is shown, never interpreted. Needs the ``vis`` extra.
"""

from tl_neuron_attr.vis.biases import biases
from tl_neuron_attr.vis.chain import chain_flow, head_effects, logic_chain, logic_chains
from tl_neuron_attr.vis.editing import bias, coefficients
from tl_neuron_attr.vis.explanation import explanation
from tl_neuron_attr.vis.flow import flow
from tl_neuron_attr.vis.in_context import in_context
from tl_neuron_attr.vis.logit_flow import logit_flow
from tl_neuron_attr.vis.report import report
from tl_neuron_attr.vis.study import faithfulness, merged_study, study
from tl_neuron_attr.vis.towers import label_differences, label_sources, learned_metric, score_matrix, tower_split
from tl_neuron_attr.vis.view import View
from tl_neuron_attr.vis.views import attention, head_scores, layer_scores, neurons, source_scores

__all__ = [
    "View",
    "attention",
    "bias",
    "biases",
    "chain_flow",
    "coefficients",
    "explanation",
    "faithfulness",
    "flow",
    "head_effects",
    "head_scores",
    "in_context",
    "label_differences",
    "label_sources",
    "layer_scores",
    "learned_metric",
    "logic_chain",
    "logic_chains",
    "logit_flow",
    "merged_study",
    "neurons",
    "report",
    "score_matrix",
    "source_scores",
    "study",
    "tower_split",
]
