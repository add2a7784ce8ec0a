"""Gradients of a prediction in what every neuron wrote: one forward and one backward pass for all of them.

Two rules say how a gradient passes a non-linearity:

* ``"gradient"``: as it is, the derivative of the model;
* ``"relevance"``: linearised (layer-wise relevance propagation: Bach et al., 2015; for transformers Achtibat et al.,
  2024, and Jafari et al., 2025). Norms keep their scale, attention keeps its pattern, an activation function counts as
  the factor ``act(x) / x`` it multiplied its input with, and of a product of gate and value each side gets half.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr.model.answer_runs import AnswerRuns
from tl_neuron_attr.model.cached_hooks import computed_from
from tl_neuron_attr.model.dimensions import post_hook
from tl_neuron_attr.model.expert_gradients import ExpertRun
from tl_neuron_attr.model.expert_hooks import Hook
from tl_neuron_attr.model.norms import unit_norm
from tl_neuron_attr.model.readable_blocks import fetched, is_at_hand
from tl_neuron_attr.model.rerun import require_finite_logits
from tl_neuron_attr.model.weights import block_weights

Rule = Literal["gradient", "relevance"]


@dataclass(frozen=True)
class EffectGradients:
    """What every neuron wrote with, and the gradient of the prediction in it, at every position.

    Attributes:
        log_prob: What was differentiated, in nats: each log p(target), less log p(contrast) if there is one.
        mlp: By layer, the coefficients of the MLP neurons, of all experts in a mixture; layers may differ in width.
        mlp_gradient: By layer, the gradient in them.
        attn: By layer, the heads' outputs before ``W_O``: what attention neurons wrote from all sources together;
            empty where a layer has no attention heads.
        attn_gradient: By layer, the gradient in them.
        experts: By layer, the number of each expert's first neuron in a mixture; None where all layers are dense.
    """

    log_prob: Float[Tensor, "prompt"]
    mlp: list[Float[Tensor, "batch pos _"]]
    mlp_gradient: list[Float[Tensor, "batch pos _"]]
    attn: list[Float[Tensor, "batch pos _ _"]]
    attn_gradient: list[Float[Tensor, "batch pos _ _"]]
    experts: tuple[tuple[int, ...], ...] | None


def effect_gradients(
    model: Any,
    runs: AnswerRuns,
    *,
    rule: Rule = "gradient",
    scaled: Mapping[int, float] | None = None,
) -> EffectGradients:
    """Return the gradients at one cost for all neurons; the model's parameters need not require any, and get none.

    Args:
        model: The model, in float32 or float64.
        runs: Prompts with what is followed. One row per run is returned, padding included: its gradients are zero.
        rule: How a gradient passes a non-linearity.
        scaled: By layer, a factor for the activations of its MLP neurons (for integrated gradients).

    Raises:
        ValueError: If the model is in half precision, whose gradients would be noise, its logits hold NaN or Inf, or
            the relevance rule is asked of a model of which it does not know everything: :func:`follows_relevance`.
    """
    require_precision(model)
    run = _Run(model, dict(scaled or {}))
    linear = _linear_hooks(model) if rule == "relevance" else []  # first: what is kept must lie behind them
    hooks = [*linear, *run.hooks()]
    with torch.enable_grad(), _no_dropout(model):
        logits = model.run_with_hooks(runs.tokens, fwd_hooks=hooks)
        scored = runs.places
        require_finite_logits(model, logits[scored.row, scored.pos].detach())
        followed = runs.log_probs(logits)
        found = torch.autograd.grad(followed.sum(), [*run.mlp.values(), *run.attn.values()], materialize_grads=True)
    gradients = [gradient.to(logits.device) for gradient in found]  # each comes from where its layer lies
    mlp = [value.detach().to(logits.device) for value in run.mlp.values()]
    mlp_gradient = gradients[: len(mlp)]
    for layer, of_layer in run.experts.items():
        of_neurons = of_layer.neurons(mlp_gradient[layer])
        mlp[layer], mlp_gradient[layer] = (value.to(logits.device) for value in of_neurons)
    none = logits.new_zeros(*runs.tokens.shape, 0, 0)
    attn, attn_gradient = [none] * len(mlp), [none] * len(mlp)
    for (layer, value), gradient in zip(run.attn.items(), gradients[len(mlp) :], strict=True):
        by_head = (*runs.tokens.shape, block_weights(model, layer).n_heads, -1)
        attn[layer], attn_gradient[layer] = (x.to(logits.device).reshape(by_head) for x in (value.detach(), gradient))
    return EffectGradients(followed.detach(), mlp, mlp_gradient, attn, attn_gradient, run.starts())


def require_precision(model: Any) -> None:
    """Refuse a model in half precision, whose gradients would be noise.

    Raises:
        ValueError: If it is one.
    """
    dtype = model.W_U.dtype
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"model is in {dtype}, whose gradients are too coarse: load it with dtype=torch.float32")


def follows_relevance(model: Any) -> bool:
    """Return whether the relevance rule knows everything that a model's blocks do.

    They have attention heads, an MLP that is no mixture, and norms whose scale a hook shows.
    """
    every = [block_weights(model, layer) for layer in range(model.cfg.n_layers)]
    return not computed_from(model) and all(each.has_attn and each.experts is None for each in every)


def with_attention(model: Any) -> list[int]:
    """Return the layers with attention heads: all but those of a hybrid's other mixers."""
    return [layer for layer in range(model.cfg.n_layers) if block_weights(model, layer).has_attn]


@dataclass
class _Run:
    """The activations of one run, kept as they pass."""

    model: Any
    scaled: dict[int, float]
    mlp: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    attn: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    experts: dict[int, ExpertRun] = field(default_factory=dict[int, ExpertRun])

    def hooks(self) -> list[Hook]:
        """Return hooks that keep what MLP neurons and heads write; the first needs a graph to begin with."""
        layers = range(self.model.cfg.n_layers)
        for layer in layers:
            if (experts := block_weights(self.model, layer).live_experts) is not None:
                self.experts[layer] = ExpertRun(experts, self.scaled.get(layer, 1.0), self.mlp, layer)
        dense = [layer for layer in layers if layer not in self.experts]
        return [
            ("blocks.0.hook_resid_pre", _begin_graph),
            *((post_hook(self.model, layer), self._keep(self.mlp, layer)) for layer in dense),
            *(hook for run in self.experts.values() for hook in run.hooks()),
            *((f"blocks.{layer}.attn.hook_z", self._keep(self.attn, layer)) for layer in with_attention(self.model)),
        ]

    def starts(self) -> tuple[tuple[int, ...], ...] | None:
        """Return, by layer, the number of each expert's first neuron; None where all layers are dense."""
        of_layers = (self.experts.get(layer) for layer in range(self.model.cfg.n_layers))
        return tuple(run.experts.starts if run else () for run in of_layers) if self.experts else None

    def kept(self) -> list[Tensor]:
        """Return all that was kept, MLPs first."""
        return [*self.mlp.values(), *self.attn.values()]

    def _keep(self, into: dict[int, Tensor], layer: int) -> Callable[..., Tensor]:
        def keep(activation: Tensor, hook: Any) -> Tensor:
            factor = self.scaled.get(layer, 1.0) if into is self.mlp else 1.0
            into[layer] = activation * factor  # a tensor of its own: hooks hand out views, whose gradient is lost
            return into[layer]

        return keep


def _begin_graph(stream: Tensor, hook: Any) -> Tensor:
    return stream.detach().requires_grad_()


def _detached(pattern: Tensor, hook: Any) -> Tensor:
    return pattern.detach()


def _linear_hooks(model: Any) -> list[tuple[str, Callable[..., Tensor]]]:
    """Return hooks that leave every value as it is and linearise what a gradient passes on its way back."""
    if not follows_relevance(model):
        raise ValueError(
            "the relevance rule follows attention, MLPs and norms with a hook on their scale, and some layers of this "
            'model do something else (experts, other mixers, embeddings by layer): use method="gradient"'
        )
    kept: dict[str, Tensor] = {}

    def remember(value: Tensor, hook: Any) -> Tensor:
        kept[hook.name] = value
        return value

    hooks: list[tuple[str, Callable[..., Tensor]]] = []
    norms = {f"blocks.{i}.{name}": getattr(block, name) for i, block in enumerate(model.blocks) for name in _NORMS
             if hasattr(block, name)}  # fmt: skip
    for name, module in {**norms, "ln_final": model.ln_final}.items():
        hooks += [(f"{name}.hook_in", remember), (f"{name}.hook_scale", remember)]
        hooks.append((f"{name}.hook_out", _frozen_norm(kept, name, module)))
    for layer in range(model.cfg.n_layers):
        attn, mlp = f"blocks.{layer}.attn", f"blocks.{layer}.mlp"
        hooks.append((f"{attn}.hook_pattern", _detached))
        factors = [f"{mlp}.gate.hook_out", f"{mlp}.in.hook_out"]
        present = [name for name in factors if name in model.hook_dict]
        hooks += [(name, remember) for name in present]
        hooks.append((f"{mlp}.hook_post", _shared_product(kept, present)))
    return hooks


_NORMS = ("ln1", "ln2", "ln1_post", "ln2_post")


def _frozen_norm(kept: dict[str, Tensor], name: str, module: Any) -> Callable[..., Tensor]:
    """Return a hook on a norm's output: the gradient of the norm with its scale frozen."""

    def freeze(out: Tensor, hook: Any) -> Tensor:
        x = kept[f"{name}.hook_in"]
        scale = kept[f"{name}.hook_scale"].detach().reshape(*x.shape[:-1], 1)
        own = module if is_at_hand(module, x.device) else fetched(module, x.device)
        linear = (unit_norm(own, x.dtype, x.flatten(0, -2)[0]).apply_unscaled(x) / scale).reshape(out.shape)
        return out.detach() + linear - linear.detach()

    return freeze


def _shared_product(kept: dict[str, Tensor], names: list[str]) -> Callable[..., Tensor]:
    """Return a hook on the MLP's activations: each factor's gradient is ``post / factor``, shared among the factors."""

    def share(post: Tensor, hook: Any) -> Tensor:
        linear = torch.zeros_like(post)
        for name in names:
            factor = kept[name].reshape(post.shape)
            ratio = torch.where(factor == 0, torch.zeros_like(post), post / factor).detach()
            linear = linear + (factor - factor.detach()) * ratio / len(names)
        return post.detach() + linear

    return share


@contextmanager
def _no_dropout(model: Any) -> Generator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
