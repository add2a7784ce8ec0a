"""One study over very many prompts: shards, what runs them, and what they are reduced to."""

from tl_neuron_attr.sweep.catalogue_task import CatalogueTask, corpus_items
from tl_neuron_attr.sweep.corpus import Corpus, read_catalogue, read_corpus
from tl_neuron_attr.sweep.faithfulness_task import FaithfulnessTask
from tl_neuron_attr.sweep.head_effects_task import HeadEffectsTask
from tl_neuron_attr.sweep.icl_biases_task import IclBiasesTask, icl_items
from tl_neuron_attr.sweep.knowledge_task import KnowledgeTask
from tl_neuron_attr.sweep.plan import Plan, open_plan, plan_study
from tl_neuron_attr.sweep.prompt_batches import prompt_items
from tl_neuron_attr.sweep.ray_actors import run_on_ray
from tl_neuron_attr.sweep.run_shards import merge_study, repair_study, run_shard, run_study
from tl_neuron_attr.sweep.shard_task import Items
from tl_neuron_attr.sweep.worker_pool import run_in_pool

__all__ = [
    "CatalogueTask",
    "Corpus",
    "FaithfulnessTask",
    "HeadEffectsTask",
    "IclBiasesTask",
    "Items",
    "KnowledgeTask",
    "Plan",
    "corpus_items",
    "icl_items",
    "merge_study",
    "open_plan",
    "plan_study",
    "prompt_items",
    "read_catalogue",
    "read_corpus",
    "repair_study",
    "run_in_pool",
    "run_on_ray",
    "run_shard",
    "run_study",
]
