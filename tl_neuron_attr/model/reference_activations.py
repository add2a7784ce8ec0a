"""What neurons do on other prompts: what one taken out is replaced by where zero is no natural value."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr.model.answer_runs import AnswerRuns
from tl_neuron_attr.model.cached_hooks import CachedHooks
from tl_neuron_attr.model.dimensions import head_sizes, post_hook
from tl_neuron_attr.model.hook_points import pattern_hook, resid_pre_hook
from tl_neuron_attr.model.positions import Positions
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.weights import block_weights
from tl_neuron_attr.numerics.sublayer import Site

Unit = tuple[Site, int, int, int]
"""Site, layer, head and index of a neuron, head or sublayer; -1 for all heads, or all dimensions or neurons."""

Stand = Literal["mean", "resample"]


def mean_activation(
    model: Any, prompts: Sequence[Int[Tensor, "_"]], layer: Int[Tensor, "n"], index: Int[Tensor, "n"], seed: int
) -> Float[Tensor, "n"]:
    """Return each MLP neuron's mean activation over all positions of the prompts; nothing is drawn."""
    return torch.cat(unit_activations(model, prompts, _mlp_units(layer, index), "mean", seed))


def resampled_activation(
    model: Any, prompts: Sequence[Int[Tensor, "_"]], layer: Int[Tensor, "n"], index: Int[Tensor, "n"], seed: int
) -> Float[Tensor, "n"]:
    """Return each MLP neuron's activation at a position of the prompts drawn for it."""
    return torch.cat(unit_activations(model, prompts, _mlp_units(layer, index), "resample", seed))


@torch.no_grad()
def unit_activations(
    model: Any, prompts: Sequence[Int[Tensor, "_"]], units: Sequence[Unit], stand: Stand, seed: int
) -> list[Float[Tensor, "*width"]]:
    """Return what each unit did on the prompts: its mean over all positions, or what it did at one drawn for it."""
    names = [post_hook(model, layer) if site == "mlp" else f"blocks.{layer}.attn.hook_z" for site, layer, *_ in units]
    found: list[list[Tensor]] = [[] for _ in units]
    for ids in prompts:
        _, cache = model.run_with_cache(ids[None], names_filter=sorted(set(names)))
        for kept, name, (site, layer, head, index) in zip(found, names, units, strict=True):
            chosen = cache[name][0]
            if site == "attn":
                chosen = chosen.reshape(len(chosen), *head_sizes(model, layer))[:, _at(head)]
            kept.append(chosen[..., _at(index)].cpu())
    return _stand_ins([torch.cat(each) for each in found], stand, seed)


@torch.no_grad()
def source_values(
    model: Any,
    runs: AnswerRuns,
    prompts: Sequence[Int[Tensor, "_"]],
    units: Sequence[Unit],
    sources: Sequence[int],
    stand: Stand | Literal["zero"],
    seed: int,
) -> Float[Tensor, "n place"]:
    """Return what leaves a head's output, at each place scored, if the value a neuron reads at its source is replaced.

    The attention stays, and so does a gate, where heads have one. What the neuron carries, ``pattern * v``, becomes
    ``pattern * w``, where ``w`` is zero, the mean of the values at all positions of the prompts, or the value at one
    drawn. A source behind the end of a row carries nothing there.
    """
    layers = sorted({layer for _, layer, *_ in units})
    new = [torch.zeros(())] * len(units) if stand == "zero" else _other_values(model, prompts, units, stand, seed)
    found = torch.zeros(len(units), len(runs.target), dtype=torch.float64)
    for row, length in enumerate(runs.lengths):
        places, own = runs.places_in(row).cpu(), _attn_stream(model, runs.row(row)[None], layers)
        at = Positions(torch.zeros_like(runs.places.row[places]), runs.places.pos[places])
        weights = {layer: own.attn_weights(layer, at) for layer in layers}
        values = {layer: own.attn_values(layer, at)[0] for layer in layers}
        for i, ((_, layer, head, index), source, w) in enumerate(zip(units, sources, new, strict=True)):
            if source < length:
                less = float(values[layer][head, index, source]) - float(w)
                found[i, places] = weights[layer][:, head, index, source].double().cpu() * less
    return found


def _other_values(
    model: Any, prompts: Sequence[Int[Tensor, "_"]], units: Sequence[Unit], stand: Stand, seed: int
) -> list[Tensor]:
    """Return the value each unit reads in its place, from the positions of the prompts."""
    layers = sorted({layer for _, layer, *_ in units})
    found: list[list[Tensor]] = [[] for _ in units]
    for prompt in prompts:
        stream = _attn_stream(model, prompt[None], layers)
        read = {layer: stream.attn_values(layer, stream.last)[0] for layer in layers}
        for kept, (_, layer, head, index) in zip(found, units, strict=True):
            kept.append(read[layer][head, index].cpu())
    return _stand_ins([torch.cat(each) for each in found], stand, seed)


def _attn_stream(model: Any, ids: Int[Tensor, "1 pos"], layers: Sequence[int]) -> Stream:
    names = {resid_pre_hook(0), *(pattern_hook(layer) for layer in layers)}
    hooks = CachedHooks(ActivationCache({}, model), model)
    names |= {hook for layer in layers for hook in hooks.behind(f"blocks.{layer}.attn.hook_v")}
    names |= {f"blocks.{layer}.{hook}" for layer in layers for hook in block_weights(model, layer).gate_hooks}
    _, cache = model.run_with_cache(ids, names_filter=sorted(names))
    return Stream(cache, model)


def _mlp_units(layer: Int[Tensor, "n"], index: Int[Tensor, "n"]) -> list[Unit]:
    return [("mlp", la, -1, i) for la, i in zip(layer.tolist(), index.tolist(), strict=True)]


def _at(number: int) -> slice:
    """Return the slice of one, or of all for -1."""
    return slice(None) if number < 0 else slice(number, number + 1)


def _stand_ins(activations: Sequence[Float[Tensor, "place ..."]], stand: Stand, seed: int) -> list[Tensor]:
    if stand == "mean":
        return [each.mean(0) for each in activations]
    drawn = torch.randint(
        len(activations[0]), (len(activations),), generator=torch.Generator().manual_seed(seed)
    ).tolist()
    return [each[i] for each, i in zip(activations, drawn, strict=True)]
