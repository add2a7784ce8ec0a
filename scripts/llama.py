"""The demo model's forward pass, for training: what ``LlamaForCausalLM`` computes, with the inner values it hides."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM


@dataclass(frozen=True)
class Trace:
    """What a forward pass leaves.

    Attributes:
        final: The normed final stream, ``[batch, pos, d_model]``.
        streams: The embedding and the stream after each layer.
        mids: The stream between attention and MLP of each layer.
        neurons: The MLP neurons' coefficients of each layer, ``[batch, pos, d_mlp]``.
    """

    final: Tensor
    streams: list[Tensor]
    mids: list[Tensor]
    neurons: list[Tensor]


def build(vocabulary: int, *, layers: int = 5, heads: int = 8, width: int = 128, mlp: int = 512) -> LlamaForCausalLM:
    """Return a model with embeddings of N(0, 0.5), read weights of N(0, 1 / sqrt(width)) and small write weights."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        initializer_range=0.05,
        hidden_act="relu",
        bos_token_id=1,
        eos_token_id=3,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(0, 0.5)
        model.lm_head.weight.normal_(0, 0.02)
        for block in model.model.layers:
            attention, gated = block.self_attn, block.mlp
            for reader in (attention.q_proj, attention.k_proj, attention.v_proj, gated.gate_proj, gated.up_proj):
                reader.weight.normal_(0, width**-0.5)
            for writer in (attention.o_proj, gated.down_proj):
                writer.weight.mul_(0.02)
    return model


def rotary(length: int, head_width: int) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines of Llama's rotary embedding."""
    frequencies = 10000.0 ** -(torch.arange(0, head_width, 2) / head_width)
    angles = torch.outer(torch.arange(length).float(), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def trace(model: LlamaForCausalLM, tokens: Tensor, cos: Tensor, sin: Tensor, drop: Tensor | None = None) -> Trace:
    """Run the model; ``drop`` (``[batch, layer, d_mlp]``) zeroes neurons at the last position where it is 1."""
    heads = model.config.num_attention_heads
    x = model.model.embed_tokens(tokens)
    batch, length, width = x.shape
    streams, mids, neurons = [x], [], []
    for i, block in enumerate(model.model.layers):
        normed = _norm(x, block.input_layernorm.weight)
        attention = block.self_attn
        q, k, v = (
            project(normed).view(batch, length, heads, width // heads).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        z = F.scaled_dot_product_attention(_rotate(q, cos, sin), _rotate(k, cos, sin), v, is_causal=True)
        x = x + attention.o_proj(z.transpose(1, 2).reshape(batch, length, width))
        mids.append(x)
        normed = _norm(x, block.post_attention_layernorm.weight)
        coefficients = F.relu(block.mlp.gate_proj(normed)) * block.mlp.up_proj(normed)
        if drop is not None:
            last = coefficients[:, -1:] * (1 - drop[:, i : i + 1])
            coefficients = torch.cat([coefficients[:, :-1], last], dim=1)
        neurons.append(coefficients)
        x = x + block.mlp.down_proj(coefficients)
        streams.append(x)
    return Trace(_norm(x, model.model.norm.weight), streams, mids, neurons)


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * weight


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin
