"""The bundled demo model, and the prompts of the small world it was trained on.

``load()`` boots it as a ``TransformerBridge`` without a network; ``facts``, ``arithmetic``, ``in_context`` and
``occupations`` give prompts it can answer.
"""

from tl_neuron_attr.demo.calculation import arithmetic
from tl_neuron_attr.demo.classification import in_context
from tl_neuron_attr.demo.evaluation import Evaluation, evaluate
from tl_neuron_attr.demo.gender import occupations
from tl_neuron_attr.demo.knowledge import KINDS, candidates, facts
from tl_neuron_attr.demo.model import load_demo as load
from tl_neuron_attr.demo.world_prompts import InContextPrompt, OccupationPrompt, Prompt

__all__ = [
    "KINDS",
    "Evaluation",
    "InContextPrompt",
    "OccupationPrompt",
    "Prompt",
    "arithmetic",
    "candidates",
    "evaluate",
    "facts",
    "in_context",
    "load",
    "occupations",
]
