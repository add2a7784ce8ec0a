"""Find the tensor that is not finite, once a result was found to hold NaN or Inf."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from tl_neuron_attr.model.stream import Stream

_HOOKS = (
    *("hook_resid_pre", "attn.hook_v", "attn.hook_pattern", "hook_attn_out", "hook_resid_mid"),
    *("mlp.hook_expert_weights", "mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post", "hook_mlp_out"),
    "hook_resid_post",
)
"""In the order in which a block computes them: the first that is not finite is the cause of the others."""

_WEIGHTS = {
    "attn": ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O"),
    "mlp": ("W_in", "W_gate", "W_out", "b_in", "b_gate", "b_out"),
    **dict.fromkeys(("ln1", "ln2", "ln1_post", "ln2_post"), ("w", "b")),
}


def first_not_finite(stream: Stream) -> str | None:
    """Return the name of the first activation or weight, in the stream's order, that holds NaN or Inf."""
    return next((name for name, tensor in _tensors(stream) if not bool(tensor.isfinite().all())), None)


def _tensors(stream: Stream) -> Iterator[tuple[str, Tensor]]:
    """Yield a layer's weights before its activations where both may be at fault: the cause, not what it spoilt."""
    for layer in range(stream.n_layers):
        at = f"blocks.{layer}."
        if stream.has(f"{at}hook_resid_pre"):
            yield f"{at}hook_resid_pre", stream.hooks[f"{at}hook_resid_pre"]
        for part, names in _WEIGHTS.items():
            yield from _present(getattr(stream.block(layer), part, None), f"{at}{part}.", names)
        experts = stream.weights(layer).live_experts
        router = None if experts is None else experts.router_weight()
        if router is not None:
            yield f"{at}mlp router's weight", router[0]
        for hook in _HOOKS:
            if stream.has(f"{at}{hook}"):
                yield f"{at}{hook}", stream.hooks[f"{at}{hook}"]
    yield from _present(stream.model.ln_final, "ln_final.", ("w", "b"))
    yield from _present(stream.model, "", ("W_U", "b_U"))
    for hook in ("ln_final.hook_scale", "unembed.hook_out"):
        if stream.has(hook):
            yield hook, stream.hooks[hook]


def _present(module: Any, prefix: str, names: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    for name in names:
        try:  # a bridge raises for weights that its architecture lacks
            weight = getattr(module, name, None)
        except (NotImplementedError, RuntimeError, ValueError):
            continue
        if isinstance(weight, Tensor):
            yield f"{prefix}{name}", weight
