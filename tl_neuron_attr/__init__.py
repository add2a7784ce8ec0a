"""Which neurons made the model say that, and what switched them on: exact attribution for TransformerLens models."""

from tl_neuron_attr.attribution import (
    attribute_attn_neurons,
    attribute_head_positions,
    attribute_heads,
    attribute_layers,
    attribute_mlp_neurons,
)
from tl_neuron_attr.types import LayerScores, Neurons, TokenLists
from tl_neuron_attr.value import value_neurons
from tl_neuron_attr.words import top_tokens

__version__ = "0.1.0"

__all__ = [
    "LayerScores",
    "Neurons",
    "TokenLists",
    "attribute_attn_neurons",
    "attribute_head_positions",
    "attribute_heads",
    "attribute_layers",
    "attribute_mlp_neurons",
    "top_tokens",
    "value_neurons",
]
