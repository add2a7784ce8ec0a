"""Real models in plain transformers: what each neuron wrote, scored in float64, without a line of TransformerLens.

Llama and Gemma 3 alone: RMS norms, gated MLPs, sequential blocks, and in Gemma a norm behind each sublayer.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

_SLICE = 16_384
"""Columns of the vocabulary at a time: in float64 a whole readout of Gemma would take 1.3 GB."""


@dataclass
class Plain:
    """A model, one prompt, and everything its layers read and wrote at the last position."""

    model: torch.nn.Module
    ids: Tensor
    read: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    """By module and layer, what went in."""
    wrote: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    @classmethod
    @torch.no_grad()
    def run(cls, folder: Path, ids: Tensor) -> "Plain":
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        plain = cls(model, ids)
        hooks = [
            module.register_forward_hook(plain._keep(name, layer), with_kwargs=True)
            for layer, block in enumerate(model.model.layers)
            for name, module in (
                ("attn", block.self_attn), ("v", block.self_attn.v_proj), ("o", block.self_attn.o_proj),
                ("mlp", block.mlp), ("down", block.mlp.down_proj), ("block", block),
            )
        ]  # fmt: skip
        output = model(ids, output_attentions=True)
        for hook in hooks:
            hook.remove()
        plain.patterns = [pattern[0, :, -1].double() for pattern in output.attentions]
        plain.logits = output.logits[0, -1].double()
        return plain

    def _keep(self, name, layer):
        def hook(_module, args, kwargs, output):
            given = args[0] if args else kwargs["hidden_states"]
            self.read[name, layer] = given[0].double()
            self.wrote[name, layer] = (output[0] if isinstance(output, tuple) else output)[0].double()

        return hook

    @property
    def gemma(self) -> bool:
        return hasattr(self.model.model.layers[0], "pre_feedforward_layernorm")

    def _through(self, norm, vectors: Tensor, of: Tensor) -> Tensor:
        """``vectors`` behind a norm whose scale is the one ``of`` has."""
        weight = norm.weight.double()
        epsilon = norm.eps if self.gemma else norm.variance_epsilon
        scale = (of.pow(2).mean() + epsilon).rsqrt()
        return vectors * scale * (1 + weight if self.gemma else weight)

    @torch.no_grad()
    def base(self, site: str, layer: int) -> Tensor:
        """The residual stream that the sublayer's output is added to."""
        start = self.read["block", layer][-1]
        if site == "attn":
            return start
        block, wrote = self.model.model.layers[layer], self.wrote["o", layer][-1]
        return start + (self._through(block.post_attention_layernorm, wrote, wrote) if self.gemma else wrote)

    def _written(self, site: str, layer: int, raw: Tensor) -> Tensor:
        block = self.model.model.layers[layer]
        if not self.gemma:
            return raw
        norm = block.post_attention_layernorm if site == "attn" else block.post_feedforward_layernorm
        return self._through(norm, raw, self.wrote["o" if site == "attn" else "down", layer][-1])

    @torch.no_grad()
    def mlp_neurons(self, layer: int, indices: list[int] | slice) -> Tensor:
        """What MLP neurons wrote to the stream at the last position: one row each."""
        matrix = self.model.model.layers[layer].mlp.down_proj.weight.double()
        return self._written("mlp", layer, (matrix * self.read["down", layer][-1]).T[indices])

    @torch.no_grad()
    def attn_neuron(self, layer: int, head: int, dimension: int, source: int) -> Tensor:
        """What a dimension of a head carried from a source position to the last one."""
        attention = self.model.model.layers[layer].self_attn
        width = attention.head_dim
        group = attention.num_key_value_groups
        value = self.wrote["v", layer][source, head // group * width + dimension]
        column = attention.o_proj.weight[:, head * width + dimension].double()
        raw = self.patterns[layer][head, source] * value * column
        return self._written("attn", layer, raw[None])[0]

    @torch.no_grad()
    def log_probs(self, streams: Tensor, target: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Log-probability of the target from residual vectors, the final norm's scale frozen at the model's own."""
        last = self.wrote["block", len(self.model.model.layers) - 1][-1]
        normed = self._through(self.model.model.norm, streams, last).to(dtype)
        matrix = self.model.lm_head.weight
        parts = [(normed @ chunk.to(dtype).T).logsumexp(-1) for chunk in matrix.split(_SLICE)]
        return (normed @ matrix[target].to(dtype) - torch.stack(parts).logsumexp(0)).double()

    @torch.no_grad()
    def increase(self, site: str, layer: int, written: Tensor, target: int) -> Tensor:
        """The log-probability increase of vectors written by a sublayer (paper 1, Eq. 13)."""
        base = self.base(site, layer)
        scores = self.log_probs(torch.cat([base[None], base + written]), target)
        return scores[1:] - scores[0]

    @torch.no_grad()
    def without_head(self, layer: int, head: int, target: int) -> float:
        """Log-probability of the target in a whole run with a head's output zeroed at every position."""
        attention = self.model.model.layers[layer].self_attn
        columns = slice(head * attention.head_dim, (head + 1) * attention.head_dim)

        def zero(_module, args):
            changed = args[0].clone()
            changed[..., columns] = 0
            return (changed,)

        hook = attention.o_proj.register_forward_pre_hook(zero)
        logits = self.model(self.ids).logits[0, -1].double()
        hook.remove()
        return float(logits.log_softmax(-1)[target])
