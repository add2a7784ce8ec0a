"""Measure how much of a fact sits in ten MLP neurons: the log p lost when they are zeroed at the last position."""

import random
from dataclasses import dataclass

import torch
from llama import rotary, trace
from torch import Tensor
from transformers import LlamaForCausalLM

from tl_neuron_attr.demo.knowledge import KINDS, facts
from tl_neuron_attr.demo.world_prompts import Prompt
from tl_neuron_attr.demo.world_vocabulary import IDS, encode


@dataclass(frozen=True)
class Concentration:
    """Return the mean change of log p(answer) in nats after zeroing neurons, and how often the prediction changes."""

    change: float
    flips: float
    random_change: float
    base: float

    def __str__(self) -> str:
        return (
            f"top ten value neurons zeroed: {self.change:+.2f} nats, {self.flips:.0%} of predictions change; "
            f"ten random live ones: {self.random_change:+.2f} nats; base log p {self.base:.2f}"
        )


@torch.no_grad()
def concentration(model: LlamaForCausalLM, *, per_kind: int = 20, k: int = 10, seed: int = 0) -> Concentration:
    """Zero the ``k`` neurons of the highest log-probability increase (paper 1, Eq. 13, final norm frozen)."""
    rng = random.Random(seed)
    outcomes = [_one(model, p, k) for kind in KINDS for p in rng.sample(facts(kind), per_kind)]
    change, flips, other, base = torch.tensor(outcomes).mean(0).tolist()
    return Concentration(change, flips, other, base)


def _one(model: LlamaForCausalLM, prompt: Prompt, k: int) -> tuple[float, float, float, float]:
    tokens = torch.tensor([encode(prompt.text)])
    answer = IDS[prompt.answer]
    angles = rotary(tokens.shape[1], model.config.hidden_size // model.config.num_attention_heads)
    done = trace(model, tokens, *angles)
    scores = _scores(
        model, done.streams[-1][0, -1], [m[0, -1] for m in done.mids], [n[0, -1] for n in done.neurons], answer
    )
    live = torch.stack([n[0, -1] for n in done.neurons]).abs() > 1e-3
    noise = torch.rand(scores.shape, generator=torch.Generator().manual_seed(0)).where(live, torch.tensor(-1.0))
    drops = torch.stack([torch.zeros_like(scores), _mask(scores, k), _mask(noise, k)])
    logits = trace(model, tokens.repeat(3, 1), *angles, drop=drops).final[:, -1] @ model.lm_head.weight.T
    base, top, other = logits.log_softmax(-1)[:, answer].tolist()
    flipped = float(logits[1].argmax() != logits[0].argmax())
    return top - base, flipped, other - base, base


def _scores(model: LlamaForCausalLM, final: Tensor, mids: list[Tensor], neurons: list[Tensor], answer: int) -> Tensor:
    gain = model.model.norm.weight * (final.pow(2).mean() + 1e-6).rsqrt()
    unembed = model.lm_head.weight.T
    rows = []
    for block, mid, coefficients in zip(model.model.layers, mids, neurons, strict=True):
        moved = mid + coefficients[:, None] * block.mlp.down_proj.weight.T
        log_p = ((torch.cat([mid[None], moved]) * gain) @ unembed).log_softmax(-1)[:, answer]
        rows.append(log_p[1:] - log_p[0])
    return torch.stack(rows)


def _mask(scores: Tensor, k: int) -> Tensor:
    mask = torch.zeros(scores.numel())
    mask[scores.flatten().topk(k).indices] = 1
    return mask.view_as(scores)
