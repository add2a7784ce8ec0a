"""What an intervention does to the answer, over many prompts: how faithful a score is, where knowledge lives."""

from tl_neuron_attr.evaluate.estimate_effects import estimate_effects
from tl_neuron_attr.evaluate.examine import Sizes
from tl_neuron_attr.evaluate.faithfulness import Faithfulness, faithfulness
from tl_neuron_attr.evaluate.important_neurons import ImportantNeurons, important_neurons
from tl_neuron_attr.evaluate.method_scores import METHODS
from tl_neuron_attr.evaluate.prompts import PromptFile, StudyPrompt, by_type, read_prompts
from tl_neuron_attr.evaluate.prompts import study_facts as facts
from tl_neuron_attr.evaluate.relations import first_tokens, read_relations, real_facts
from tl_neuron_attr.evaluate.results import KnowledgeStudy
from tl_neuron_attr.evaluate.select import select
from tl_neuron_attr.evaluate.study import knowledge_study
from tl_neuron_attr.evaluate.verify import Verified, verify
from tl_neuron_attr.evaluate.verify_components import VerifiedComponents, verify_components
from tl_neuron_attr.results.effect_estimates import EffectEstimates

__all__ = [
    "METHODS",
    "EffectEstimates",
    "Faithfulness",
    "ImportantNeurons",
    "KnowledgeStudy",
    "PromptFile",
    "Sizes",
    "StudyPrompt",
    "Verified",
    "VerifiedComponents",
    "by_type",
    "estimate_effects",
    "facts",
    "faithfulness",
    "first_tokens",
    "important_neurons",
    "knowledge_study",
    "read_prompts",
    "read_relations",
    "real_facts",
    "select",
    "verify",
    "verify_components",
]
