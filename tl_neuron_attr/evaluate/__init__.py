"""What an intervention does to the answer, over many prompts: how faithful a score is, where knowledge lives."""

from tl_neuron_attr.evaluate.faithfulness import METHODS, Faithfulness, faithfulness

__all__ = ["METHODS", "Faithfulness", "faithfulness"]
