"""The slow way: every neuron's write materialised one by one, scored with a float64 ``log_softmax``.

Nothing of the package is used: the writes are formed from cached activations and weights, and the readout from the
final norm's module. That the writes are right is checked against what the model itself cached (tests/test_stream.py).
"""

from typing import Any

import torch
from torch import Tensor
from transformer_lens import ActivationCache


def writes(cache: ActivationCache, layer: int, site: str, row: int, pos: int) -> Tensor:
    """What each neuron wrote at ``pos``: ``[neuron, d_model]``, or ``[head, source, d_head, d_model]``."""
    block = cache.model.blocks[layer]
    if site == "mlp" and not hasattr(block.mlp, "W_out"):
        raw = expert_writes(cache, layer, row, pos)
    elif site == "mlp":
        post = cache[f"blocks.{layer}.mlp.hook_post"][row, pos].double()
        raw = torch.stack([post[i] * block.mlp.W_out[i].double() for i in range(len(post))])
    elif not hasattr(block, "attn"):
        return torch.zeros(0, cache["blocks.0.hook_resid_pre"].shape[1], 0, cache.model.cfg.d_model).double()
    else:
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"][row, :, pos].double()
        v = values(cache, layer)[row].double()
        W_O = block.attn.W_O.double()
        heads, per_kv = len(W_O), len(W_O) // v.shape[1]
        raw = torch.stack(
            [
                torch.stack([(pattern[h, s] * v[s, h // per_kv])[:, None] * W_O[h] for s in range(len(v))])
                for h in range(heads)
            ]
        )
        for gate in (f"blocks.{layer}.attn.hook_q_gate", f"blocks.{layer}.attn.gate.hook_out"):
            if gate in cache:
                raw = raw * cache[gate][row, pos].double().sigmoid().reshape(heads, 1, -1, 1)
    return through_post_norm(cache, layer, site, row, pos, raw)


def values(cache: ActivationCache, layer: int) -> Tensor:
    """What heads read at each position: ``[batch, pos, kv, d_head]``; latent attention has heads before positions."""
    v = cache[f"blocks.{layer}.attn.hook_v"]
    return v.transpose(1, 2) if f"blocks.{layer}.attn.hook_kv_latent" in cache else v


def wrote(cache: ActivationCache, hook: str) -> Tensor:
    """What a sublayer wrote, by the name it has where it is attention or an MLP; mixers of hybrids have their own."""
    if hook in cache:
        return cache[hook]
    block = hook.removesuffix(".hook_attn_out")
    return next(cache[name] for mixer in ("linear_attn", "conv") if (name := f"{block}.{mixer}.hook_out") in cache)


def expert_writes(cache: ActivationCache, layer: int, row: int, pos: int) -> Tensor:
    """What each neuron of a mixture wrote: what the mixture's output lacks once the neuron's own weights are zero.

    Nothing is known here of routers, gates and activations: the model's own module is run without the neuron, on all
    tokens at once, since some routers compute in float32 and round by the size of what they are given.
    """
    mixture = cache.model.blocks[layer].mlp.original_component
    read = cache[f"blocks.{layer}.mlp.hook_in"]

    def without(weights: Tensor) -> Tensor:
        kept = weights.clone()
        weights.zero_()
        less = at_place(mixture(read))
        weights.copy_(kept)
        return whole - less

    def at_place(out: Any) -> Tensor:
        return (out[0] if isinstance(out, tuple) else out).reshape(read.shape)[row, pos]

    whole = at_place(mixture(read))
    return torch.stack([without(column) for column in down_columns(mixture)]).double()


def down_columns(mixture: Any) -> list[Tensor]:
    """The weights that each neuron of a mixture writes with, expert after expert, those of a shared one last."""
    down = unwrapped(mixture.experts).down_proj.data
    down = down if is_transposed(mixture) else down.transpose(1, 2)
    shared = next(
        (getattr(mixture, name) for name in ("shared_expert", "shared_experts") if hasattr(mixture, name)), None
    )
    columns = [expert[i] for expert in down for i in range(len(expert))]
    if shared is None:
        return columns
    weight = unwrapped(unwrapped(shared).down_proj).weight.data
    return [*columns, *(weight[:, i] for i in range(weight.shape[1]))]


def is_transposed(mixture: Any) -> bool:
    """Whether experts' weights are stored as (in, out); Llama 4's are, without saying so."""
    return getattr(unwrapped(mixture.experts), "is_transposed", True)


def rows_written_with(block: Any) -> Any:
    """The live weights that each MLP neuron of a block writes with."""
    return block.mlp.W_out.detach() if hasattr(block.mlp, "W_out") else down_columns(block.mlp.original_component)


def unwrapped(module: Any) -> Any:
    """The module of transformers that a bridge wraps."""
    return unwrapped(module.original_component) if hasattr(module, "original_component") else module


def through_post_norm(cache: ActivationCache, layer: int, site: str, row: int, pos: int, raw: Tensor) -> Tensor:
    """Gemma-2/3 and OLMo-2 normalise what a sublayer writes; Granite multiplies it."""
    block = cache.model.blocks[layer]
    owner = "ln1_post" if site == "attn" else "ln2_post"
    if f"blocks.{layer}.{owner}.hook_scale" in cache:
        norm = getattr(block, owner)
        scale = cache[f"blocks.{layer}.{owner}.hook_scale"][row, pos].double()
        raw = raw / scale * (norm.w.double() + (1 if norm.uses_weight_offset else 0))
    return raw * getattr(block, "residual_contribution_scale", 1.0)


def log_probs(cache: ActivationCache, row: int, pos: int, resid: Tensor) -> Tensor:
    """Log-probabilities of residual vectors, the final norm's scale frozen at ``pos``."""
    model: Any = cache.model
    norm = model.ln_final
    centred = resid if norm.uses_rms_norm else resid - resid.mean(-1, keepdim=True)
    weight = norm.w.double() + (1 if getattr(norm, "uses_weight_offset", False) else 0)
    normed = centred / cache["ln_final.hook_scale"][row, pos].double() * weight
    bias = getattr(norm, "b", None)
    normed = normed if bias is None else normed + bias.double()
    logits = normed @ model.W_U.double() + model.b_U.double()
    return model.adapter.apply_output_logits_transform(logits).log_softmax(-1)


def base(cache: ActivationCache, layer: int, site: str, row: int, pos: int) -> Tensor:
    """The stream a sublayer adds to."""
    mid = f"blocks.{layer}.hook_resid_mid"
    name = mid if site == "mlp" and mid in cache else f"blocks.{layer}.hook_resid_pre"
    return cache[name][row, pos].double()


def increase(
    cache: ActivationCache,
    layer: int,
    site: str,
    row: int,
    pos: int,
    vectors: Tensor,
    target: int,
    contrast: int | None = None,
) -> Tensor:
    """``log p(target | base + v) - log p(target | base)`` of each vector, or the difference to ``contrast``."""
    start = base(cache, layer, site, row, pos)

    def followed(resid: Tensor) -> Tensor:
        log_p = log_probs(cache, row, pos, resid)
        return log_p[..., target] - (0 if contrast is None else log_p[..., contrast])

    return followed(start + vectors) - followed(start)


def neuron_scores(
    cache: ActivationCache,
    site: str,
    pos: list[int],
    targets: list[int],
    contrast: int | None = None,
    fill: float = 0.0,
) -> Tensor:
    """``[batch, layer, neuron]``, or ``[batch, layer, head, source, d_head]``; ``fill`` where a layer has fewer."""
    with torch.no_grad():
        return torch.stack(
            [
                in_one(
                    [
                        increase(cache, layer, site, row, p, writes(cache, layer, site, row, p), target, contrast)
                        for layer in range(cache.model.cfg.n_layers)
                    ],
                    fill,
                )
                for row, (p, target) in enumerate(zip(pos, targets, strict=True))
            ]
        )


def in_one(layers: list[Tensor], fill: float = 0.0) -> Tensor:
    """Scores of layers of one or several sizes in one tensor, filled up."""
    sizes = torch.tensor([each.shape for each in layers])
    found = layers[0].new_full((len(layers), *sizes.amax(0).tolist()), fill)
    for own, scores in zip(found, layers, strict=True):
        own[tuple(slice(size) for size in scores.shape)] = scores
    return found


def norm_read(cache: ActivationCache, layer: int, site: str, row: int, pos: int, vector: Tensor) -> Tensor:
    """A component of the stream as a sublayer reads it: through its norm, scale frozen, the norm's bias left out."""
    block = cache.model.blocks[layer]
    if not hasattr(block, "ln1"):  # OLMo-2 reads the bare stream
        return vector
    name = "ln2" if site == "mlp" and hasattr(block, "ln2") else "ln1"
    norm, scale = getattr(block, name), cache[f"blocks.{layer}.{name}.hook_scale"]
    centred = vector if norm.uses_rms_norm else vector - vector.mean(-1, keepdim=True)
    frozen = scale.reshape(*cache["blocks.0.hook_resid_pre"].shape[:2], 1)[row, pos].double()
    return centred / frozen * (norm.w.double() + (1 if norm.uses_weight_offset else 0))


def fed_by(cache: ActivationCache, layer: int, site: str) -> list[str]:
    """The hooks of the components a sublayer reads, the embedding first."""
    below = [f"blocks.{i}.hook_{s}_out" for i in range(layer) for s in ("attn", "mlp")]
    own = [f"blocks.{layer}.hook_attn_out"] if site == "mlp" and f"blocks.{layer}.hook_resid_mid" in cache else []
    return ["blocks.0.hook_resid_pre", *below, *own]


def keys(cache: ActivationCache, layer: int, site: str, index: int, head: int = -1) -> list[Tensor]:
    """The subkeys of a neuron, before any norm."""
    block = cache.model.blocks[layer]
    if site == "attn" and hasattr(block.attn, "hook_kv_latent"):
        return [latent_key(block.attn.original_component, values(cache, layer).shape[-1], head, index)]
    if site == "attn":
        return [block.attn.W_V[head // (len(block.attn.W_O) // len(block.attn.W_V))][:, index].double()]
    if not hasattr(block.mlp, "W_out"):
        return expert_keys(block.mlp.original_component, index)
    gate = getattr(block.mlp, "W_gate", None)
    return [W[:, index].double() for W in ((block.mlp.W_in,) if gate is None else (gate, block.mlp.W_in))]


def latent_key(attention: Any, d_head: int, head: int, index: int) -> Tensor:
    """What a value of latent attention reads, but for the scale of the norm inside, which shares do not depend on."""
    spread, rank = unwrapped(attention.kv_b_proj).weight.double(), attention.kv_lora_rank
    spread = spread.view(attention.num_heads, -1, rank)[head, -d_head:][index]
    normed = spread * unwrapped(attention.kv_a_layernorm).weight.double()
    return unwrapped(attention.kv_a_proj_with_mqa).weight.double()[:rank].T @ normed


def expert_keys(mixture: Any, index: int) -> list[Tensor]:
    """Gate and input of a neuron of a mixture, counted through its experts."""
    experts = unwrapped(mixture.experts)
    into = experts.gate_up_proj.double()
    into = into.transpose(1, 2) if is_transposed(mixture) else into  # [expert, gates and inputs, d_model]
    count, width = len(into), into.shape[1] // 2
    if index >= count * width:
        shared = unwrapped(mixture.shared_expert if hasattr(mixture, "shared_expert") else mixture.shared_experts)
        return [unwrapped(p).weight[index - count * width].double() for p in (shared.gate_proj, shared.up_proj)]
    own, i = into[index // width], index % width
    return [own[i], own[width + i]] if getattr(experts, "is_concatenated", True) else [own[2 * i], own[2 * i + 1]]
