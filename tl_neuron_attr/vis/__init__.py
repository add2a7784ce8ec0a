"""What the numbers look like: views for notebooks, and one self-contained page.

Every view is offline and escaped: token text is shown, never interpreted. Needs the ``vis`` extra.
"""

from tl_neuron_attr.vis.biases import biases
from tl_neuron_attr.vis.flow import flow
from tl_neuron_attr.vis.in_context import in_context
from tl_neuron_attr.vis.report import report
from tl_neuron_attr.vis.study import faithfulness, study
from tl_neuron_attr.vis.view import View
from tl_neuron_attr.vis.views import attention, head_scores, layer_scores, neurons, source_scores

__all__ = [
    "View",
    "attention",
    "biases",
    "faithfulness",
    "flow",
    "head_scores",
    "in_context",
    "layer_scores",
    "neurons",
    "report",
    "source_scores",
    "study",
]
