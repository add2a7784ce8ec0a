"""Which neurons made the model say that, and what switched them on: exact attribution for TransformerLens models.

Names are loaded when first used, so that ``tl_neuron_attr.srnn`` can be had without TransformerLens.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tl_neuron_attr import cna, demo, evaluate, incontext, srnn, sweep, vis
    from tl_neuron_attr.cna import HeadEffects, NeuronComparison, compare_neurons, head_effects
    from tl_neuron_attr.knowledge.attention_sources import AttentionSources, attention_sources
    from tl_neuron_attr.knowledge.attribution import (
        attribute_attn_neurons,
        attribute_head_positions,
        attribute_heads,
        attribute_layers,
        attribute_mlp_neurons,
    )
    from tl_neuron_attr.knowledge.baselines import baseline_scores
    from tl_neuron_attr.knowledge.common_neurons import common_neurons
    from tl_neuron_attr.knowledge.explain import Explanation, explain
    from tl_neuron_attr.knowledge.flow import Flow, trace
    from tl_neuron_attr.knowledge.key_tokens import key_tokens
    from tl_neuron_attr.knowledge.logit_flow import LogitFlow, logit_flow
    from tl_neuron_attr.knowledge.moved_tokens import moved_tokens
    from tl_neuron_attr.knowledge.query_neurons import query_layers, query_neurons
    from tl_neuron_attr.knowledge.router_scores import RouterScores, router_scores
    from tl_neuron_attr.knowledge.target_ranks import target_ranks
    from tl_neuron_attr.knowledge.value_neurons import value_neurons
    from tl_neuron_attr.knowledge.vocabulary import position_tokens, top_tokens, transformed_tokens
    from tl_neuron_attr.model.answer import answer
    from tl_neuron_attr.model.answer_tokens import Answer, AnyOf, any_of
    from tl_neuron_attr.model.chat import chat
    from tl_neuron_attr.model.intervene import ablate, ablation_hooks, edit, keep
    from tl_neuron_attr.model.loading import load
    from tl_neuron_attr.model.run import hooks_needed, run
    from tl_neuron_attr.model.scored import scored
    from tl_neuron_attr.model.scored_cache import ScoredCache
    from tl_neuron_attr.results.common import CommonNeurons
    from tl_neuron_attr.results.key_token_lists import KeyTokens
    from tl_neuron_attr.results.layer_scores import LayerScores
    from tl_neuron_attr.results.neurons import Neurons
    from tl_neuron_attr.results.probability_moved import MovedTokens
    from tl_neuron_attr.results.token_lists import TokenLists

__version__ = "0.1.0"

_HOME = {
    "AttentionSources": "knowledge.attention_sources",
    "attention_sources": "knowledge.attention_sources",
    "LogitFlow": "knowledge.logit_flow",
    "logit_flow": "knowledge.logit_flow",
    "attribute_attn_neurons": "knowledge.attribution",
    "attribute_head_positions": "knowledge.attribution",
    "attribute_heads": "knowledge.attribution",
    "attribute_layers": "knowledge.attribution",
    "attribute_mlp_neurons": "knowledge.attribution",
    "baseline_scores": "knowledge.baselines",
    "CommonNeurons": "results.common",
    "common_neurons": "knowledge.common_neurons",
    "HeadEffects": "cna",
    "NeuronComparison": "cna",
    "compare_neurons": "cna",
    "head_effects": "cna",
    "Flow": "knowledge.flow",
    "trace": "knowledge.flow",
    "answer": "model.answer",
    "Answer": "model.answer_tokens",
    "AnyOf": "model.answer_tokens",
    "any_of": "model.answer_tokens",
    "chat": "model.chat",
    "Explanation": "knowledge.explain",
    "explain": "knowledge.explain",
    "ablate": "model.intervene",
    "ablation_hooks": "model.intervene",
    "edit": "model.intervene",
    "keep": "model.intervene",
    "load": "model.loading",
    "hooks_needed": "model.run",
    "run": "model.run",
    "ScoredCache": "model.scored_cache",
    "scored": "model.scored",
    "query_layers": "knowledge.query_neurons",
    "query_neurons": "knowledge.query_neurons",
    "KeyTokens": "results.key_token_lists",
    "key_tokens": "knowledge.key_tokens",
    "LayerScores": "results.layer_scores",
    "moved_tokens": "knowledge.moved_tokens",
    "MovedTokens": "results.probability_moved",
    "Neurons": "results.neurons",
    "TokenLists": "results.token_lists",
    "RouterScores": "knowledge.router_scores",
    "router_scores": "knowledge.router_scores",
    "value_neurons": "knowledge.value_neurons",
    "position_tokens": "knowledge.vocabulary",
    "target_ranks": "knowledge.target_ranks",
    "top_tokens": "knowledge.vocabulary",
    "transformed_tokens": "knowledge.vocabulary",
}
_MODULES = ("cna", "demo", "evaluate", "incontext", "srnn", "sweep", "vis")

__all__ = [
    "Answer",
    "AnyOf",
    "AttentionSources",
    "CommonNeurons",
    "Explanation",
    "Flow",
    "HeadEffects",
    "KeyTokens",
    "LayerScores",
    "LogitFlow",
    "MovedTokens",
    "NeuronComparison",
    "Neurons",
    "RouterScores",
    "ScoredCache",
    "TokenLists",
    "ablate",
    "ablation_hooks",
    "answer",
    "any_of",
    "attention_sources",
    "attribute_attn_neurons",
    "attribute_head_positions",
    "attribute_heads",
    "attribute_layers",
    "attribute_mlp_neurons",
    "baseline_scores",
    "chat",
    "cna",
    "common_neurons",
    "compare_neurons",
    "demo",
    "edit",
    "evaluate",
    "explain",
    "head_effects",
    "hooks_needed",
    "incontext",
    "keep",
    "key_tokens",
    "load",
    "logit_flow",
    "moved_tokens",
    "position_tokens",
    "query_layers",
    "query_neurons",
    "router_scores",
    "run",
    "scored",
    "srnn",
    "sweep",
    "target_ranks",
    "top_tokens",
    "trace",
    "transformed_tokens",
    "value_neurons",
    "vis",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"tl_neuron_attr.{_HOME[name]}"), name)
    if name in _MODULES:
        return import_module(f"tl_neuron_attr.{name}")
    raise AttributeError(f"module 'tl_neuron_attr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
