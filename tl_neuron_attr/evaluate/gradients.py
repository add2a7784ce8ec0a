"""Scores that need backward passes: not the paper's, but what users will compare with.

    gradient                a_i * d log p(w) / d a_i
    integrated_gradients    a_i * mean over t of d log p(w) / d a_i, a layer's activations times t (Dai et al., 2022)

``a`` are the MLP neurons' activations at the scored position, the last; of an answer of several tokens the scores are
sums over the positions that predict them, each of the whole answer's log-probability. Both see what a neuron does
through all later layers, where the static scores see one sublayer's write.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.batches import predicting

STEPS = 16
"""Points of the path of integrated gradients: midpoints of as many equal steps from 0 to 1."""


def gradient(
    model: Any, tokens: Int[Tensor, "batch pos"], target: Int[Tensor, "batch token"]
) -> Float[Tensor, "batch layer d_mlp"]:
    """Return gradient times activation of every MLP neuron, one forward and one backward pass."""
    return torch.stack([(a * g).sum(1) for a, g in zip(*_backward(model, tokens, target, {}), strict=True)], dim=1)


def integrated_gradients(
    model: Any, tokens: Int[Tensor, "batch pos"], target: Int[Tensor, "batch token"], *, steps: int = STEPS
) -> Float[Tensor, "batch layer d_mlp"]:
    """Return integrated gradients of every MLP neuron, layer by layer, along the layer's activations from zero."""
    scores: list[Tensor] = []
    for layer in range(model.cfg.n_layers):
        total = torch.zeros(())
        for step in range(steps):
            share = (step + 0.5) / steps
            _, gradients = _backward(model, tokens, target, {layer: share})
            total = total + gradients[layer] / steps
        activations, _ = _backward(model, tokens, target, {})
        scores.append((activations[layer] * total).sum(1))
    return torch.stack(scores, dim=1)


def _backward(
    model: Any, tokens: Int[Tensor, "batch pos"], target: Int[Tensor, "batch token"], scaled: dict[int, float]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return every layer's MLP activations where the target is predicted, some layers' scaled, and the gradients."""
    kept: dict[int, Tensor] = {}
    start = tokens.shape[1] - target.shape[1]

    def keep(activation: Tensor, hook: Any) -> Tensor:
        last = activation[:, start:] * scaled.get(hook.layer(), 1.0)
        kept[hook.layer()] = last if last.requires_grad else last.requires_grad_()
        return torch.cat([activation[:, :start], last], dim=1)

    hooks = [(dimensions.post_hook(model, layer), keep) for layer in range(model.cfg.n_layers)]
    with torch.enable_grad():
        logits = predicting(model.run_with_hooks(tokens, fwd_hooks=hooks), target)
        followed = logits.log_softmax(-1).gather(2, target[..., None]).sum()
        gradients = torch.autograd.grad(followed, [kept[layer] for layer in sorted(kept)])
    return [kept[layer].detach() for layer in sorted(kept)], list(gradients)
