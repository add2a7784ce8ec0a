"""What an intervention does to the answer, over many prompts: how faithful a score is, where knowledge lives."""

from tl_neuron_attr.evaluate.examine import Sizes
from tl_neuron_attr.evaluate.faithfulness import METHODS, Faithfulness, faithfulness
from tl_neuron_attr.evaluate.prompts import PromptFile, StudyPrompt, by_type, facts, read_prompts, select
from tl_neuron_attr.evaluate.results import KnowledgeStudy
from tl_neuron_attr.evaluate.study import knowledge_study

__all__ = [
    "METHODS",
    "Faithfulness",
    "KnowledgeStudy",
    "PromptFile",
    "Sizes",
    "StudyPrompt",
    "by_type",
    "facts",
    "faithfulness",
    "knowledge_study",
    "read_prompts",
    "select",
]
