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
from tl_neuron_attr.model.rerun import KeptRun, runs_within
from tl_neuron_attr.numerics.increase import MAX_BYTES

STEPS = 16
"""Points of the path of integrated gradients: midpoints of as many equal steps from 0 to 1."""


def gradient(
    model: Any, tokens: Int[Tensor, "batch pos"], target: Int[Tensor, "batch token"]
) -> Float[Tensor, "batch layer d_mlp"]:
    """Return gradient times activation of every MLP neuron, one forward and one backward pass."""
    return torch.stack([(a * g).sum(1) for a, g in zip(*_backward(model, tokens, target), strict=True)], dim=1)


def integrated_gradients(
    model: Any,
    tokens: Int[Tensor, "batch pos"],
    target: Int[Tensor, "batch token"],
    *,
    steps: int = STEPS,
    max_bytes: int = MAX_BYTES,
) -> Float[Tensor, "batch layer d_mlp"]:
    """Return integrated gradients of every MLP neuron, layer by layer, along the layer's activations from zero.

    The points of a layer's path are rows of one batch, and what lies below the layer is not run again.
    """
    places = torch.arange(tokens.shape[1] - target.shape[1], tokens.shape[1], device=tokens.device)
    with torch.no_grad():
        run = KeptRun(model, tokens, places.expand(target.shape))
    n_layers = model.cfg.n_layers
    rows = max(1, runs_within(model, tokens.shape[1], max_bytes, len(places)) // n_layers)  # a graph keeps every layer
    shares = (torch.arange(steps, device=tokens.device) + 0.5) / steps
    return torch.stack([_along(run, layer, target, shares, rows) for layer in range(n_layers)], dim=1)


def _along(
    run: KeptRun, layer: int, target: Int[Tensor, "batch token"], shares: Float[Tensor, "step"], rows: int
) -> Float[Tensor, "batch d_mlp"]:
    """Return a layer's activations times their mean gradient over the points of the path, ``rows`` at a time."""
    points = torch.cartesian_prod(*(torch.arange(n, device=target.device) for n in (len(target), len(shares))))
    products: list[Tensor] = []
    for prompts, steps in (some.unbind(1) for some in points.split(rows)):
        activations, gradients = _scaled(run, layer, prompts, target[prompts], shares[steps])
        products.append((activations * gradients).sum(1))
    return torch.cat(products).unflatten(0, (len(target), len(shares))).mean(1)


def _scaled(
    run: KeptRun,
    layer: int,
    prompts: Int[Tensor, "row"],
    target: Int[Tensor, "row token"],
    shares: Float[Tensor, "row"],
) -> tuple[Float[Tensor, "row token d_mlp"], Float[Tensor, "row token d_mlp"]]:
    """Return a layer's MLP activations where the target is predicted, and the gradients where they are scaled."""
    kept: list[Tensor] = []

    def scale(activation: Tensor, hook: Any) -> Tensor:
        start = activation.shape[1] - target.shape[1]
        whole = activation[:, start:].detach()
        part = (whole * shares.to(whole)[:, None, None]).requires_grad_()
        kept[:] = [whole, part]
        return torch.cat([activation[:, :start], part], dim=1)

    with torch.enable_grad(), run.model.hooks(fwd_hooks=[(dimensions.post_hook(run.model, layer), scale)]):
        logits = run.from_layer(layer, prompts)
        followed = logits.log_softmax(-1).gather(2, target.to(logits.device)[..., None]).sum()
        (gradients,) = torch.autograd.grad(followed, kept[1])
    return kept[0], gradients


def _backward(
    model: Any, tokens: Int[Tensor, "batch pos"], target: Int[Tensor, "batch token"]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return every layer's MLP activations where the target is predicted, and the gradients."""
    kept: dict[int, Tensor] = {}
    start = tokens.shape[1] - target.shape[1]

    def keep(activation: Tensor, hook: Any) -> Tensor:
        last = activation[:, start:]
        kept[hook.layer()] = last if last.requires_grad else last.requires_grad_()
        return torch.cat([activation[:, :start], last], dim=1)

    hooks = [(dimensions.post_hook(model, layer), keep) for layer in range(model.cfg.n_layers)]
    with torch.enable_grad():
        logits = predicting(model.run_with_hooks(tokens, fwd_hooks=hooks), target)
        followed = logits.log_softmax(-1).gather(2, target[..., None]).sum()
        gradients = torch.autograd.grad(followed, [kept[layer] for layer in sorted(kept)])
    return [kept[layer].detach() for layer in sorted(kept)], list(gradients)
