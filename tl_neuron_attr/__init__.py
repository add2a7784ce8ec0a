"""Which neurons made the model say that, and what switched them on: exact attribution for TransformerLens models.

Names are loaded when first used, so that ``tl_neuron_attr.srnn`` can be had without TransformerLens.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tl_neuron_attr import cna, demo, evaluate, incontext, srnn, vis
    from tl_neuron_attr.attribution import (
        attribute_attn_neurons,
        attribute_head_positions,
        attribute_heads,
        attribute_layers,
        attribute_mlp_neurons,
    )
    from tl_neuron_attr.baselines import baseline_scores
    from tl_neuron_attr.cna import HeadEffects, NeuronComparison, compare_neurons, head_effects
    from tl_neuron_attr.flow import Flow, trace
    from tl_neuron_attr.intervene import ablate, ablation_hooks, edit, keep
    from tl_neuron_attr.query import query_layers, query_neurons
    from tl_neuron_attr.types import LayerScores, Neurons, TokenLists
    from tl_neuron_attr.value import value_neurons
    from tl_neuron_attr.words import position_tokens, top_tokens, transformed_tokens

__version__ = "0.1.0"

_HOME = {
    "attribute_attn_neurons": "attribution",
    "attribute_head_positions": "attribution",
    "attribute_heads": "attribution",
    "attribute_layers": "attribution",
    "attribute_mlp_neurons": "attribution",
    "baseline_scores": "baselines",
    "HeadEffects": "cna",
    "NeuronComparison": "cna",
    "compare_neurons": "cna",
    "head_effects": "cna",
    "Flow": "flow",
    "trace": "flow",
    "ablate": "intervene",
    "ablation_hooks": "intervene",
    "edit": "intervene",
    "keep": "intervene",
    "query_layers": "query",
    "query_neurons": "query",
    "LayerScores": "types",
    "Neurons": "types",
    "TokenLists": "types",
    "value_neurons": "value",
    "position_tokens": "words",
    "top_tokens": "words",
    "transformed_tokens": "words",
}
_MODULES = ("cna", "demo", "evaluate", "incontext", "srnn", "vis")

__all__ = [
    "Flow",
    "HeadEffects",
    "LayerScores",
    "NeuronComparison",
    "Neurons",
    "TokenLists",
    "ablate",
    "ablation_hooks",
    "attribute_attn_neurons",
    "attribute_head_positions",
    "attribute_heads",
    "attribute_layers",
    "attribute_mlp_neurons",
    "baseline_scores",
    "cna",
    "compare_neurons",
    "demo",
    "edit",
    "evaluate",
    "head_effects",
    "incontext",
    "keep",
    "position_tokens",
    "query_layers",
    "query_neurons",
    "srnn",
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
