"""What value neurons read the stream with: their subkeys, as directions of the stream (paper 1, section 3.2).

A neuron's pre-activation is ``norm(h) @ key + bias``. With the norm's scale frozen that is ``h @ u`` plus a constant,
and ``h`` is the sum of everything earlier components wrote: ``u @ component`` says how much each of them contributed.

That weights and cache belong together is checked in :mod:`tl_neuron_attr.model.subkey_checks`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_neuron_attr.model.additive_checks import TINY, require_neurons_add_up
from tl_neuron_attr.model.head_projections import values_layer
from tl_neuron_attr.model.positions import Positions
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.subkey_checks import (
    cached_pre_activations,
    neuron_name,
    require_same,
    require_same_cache,
    sublayers_of,
)
from tl_neuron_attr.model.weights import BlockWeights
from tl_neuron_attr.numerics.sublayer import SITES, Site
from tl_neuron_attr.results.neurons import Neurons

Key = Literal["gate", "up", "both"]
"""Which subkey of a gated MLP neuron: of ``W_gate``, of ``W_in``, or half of each one's share."""


ILL_CONDITIONED = 1e-3
"""Inner products that cancel to less than this part of their sizes' sum give shares that mean nothing."""


@dataclass(frozen=True)
class Subkeys:
    """Subkeys of value neurons: one row per neuron and subkey.

    Attributes:
        neuron: Which value neuron, counted through all prompts.
        u: The subkey behind the norm: ``h @ u`` is the pre-activation but for a constant.
        places: The different places read.
        place: Which of them each row reads.
        depth: How many sublayers, counted from the bottom, feed it.
        is_mlp: Whether it is an MLP neuron.
        score: The value neuron's score; half of it for each of two subkeys.
        prompt: The prompt that each place is of.
        prompts: How many prompts there are.
    """

    neuron: Int[Tensor, "n"]
    u: Float[Tensor, "n d_model"]
    places: Positions
    place: Int[Tensor, "n"]
    depth: Int[Tensor, "n"]
    is_mlp: Bool[Tensor, "n"]
    score: Float[Tensor, "n"]
    prompt: Int[Tensor, "place"]
    prompts: int

    def only(self, wanted: Bool[Tensor, "n"]) -> "Subkeys":
        """Return the wanted rows, and the places they read."""
        used, place = self.place[wanted].unique(return_inverse=True)
        rows = {name: getattr(self, name)[wanted] for name in ("neuron", "u", "depth", "is_mlp", "score")}
        return Subkeys(
            **rows, places=self.places.select(used), place=place, prompt=self.prompt[used], prompts=self.prompts
        )

    def total(self, stream: Stream) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        """Return the sum of each row's inner products with all components that feed it, and of their sizes."""
        signed, size = torch.zeros_like(self.score), torch.zeros_like(self.score)
        for depth, component in components(stream, self.places):
            inner = (component[self.place] * self.u).sum(-1) * (depth < self.depth)
            signed, size = signed + inner, size + inner.abs()
        return signed, size

    def above(self, depth: int) -> Float[Tensor, "batch d_model"]:
        """Return, by place, the sum of the directions of all rows that the component ``depth`` feeds."""
        fed = (depth < self.depth)[:, None] * self.u
        return torch.zeros(len(self.places), self.u.shape[1]).to(fed).index_add(0, self.place, fed)


def components(stream: Stream, places: Positions) -> Sequence[tuple[int, Float[Tensor, "batch d_model"]]]:
    """Return the embedding (depth -1) and every sublayer's output (``2 * layer``, ``2 * layer + 1``) at each place."""
    outs = [
        (depth_of(site, layer), stream.out(site, layer, places))
        for layer in range(stream.n_layers)
        for site in ("attn", "mlp")
    ]
    return [(-1, stream.at("blocks.0.hook_resid_pre", places)), *outs]


def depth_of(site: Site, layer: int) -> int:
    """Return a sublayer's depth: its number in the stream, counted from 0 at the bottom."""
    return 2 * layer + (site == "mlp")


def subkeys(
    stream: Stream, value: Neurons, scored: Positions, key: Key, prompt: Int[Tensor, "place"] | None = None
) -> Subkeys:
    """Return the subkeys of ``value``; MLP neurons read the place scored, attention neurons their source.

    Args:
        stream: The stream.
        value: The value neurons, a batch of one row per place scored.
        scored: The places they were scored at.
        key: Which subkey of a gated MLP neuron.
        prompt: The prompt each place is of, where prompts have several, and hold the same neurons at each of them.

    Raises:
        ValueError: If a neuron's coefficient is not the cache's, a model without gates is asked for one, or the model's
            weights do not give the cached pre-activations.
    """
    k = len(value)
    own = torch.arange(len(scored), device=stream.device) if prompt is None else prompt
    at = scored.select(torch.arange(len(scored), device=stream.device).repeat_interleave(k))
    site, layer, source = value.site.flatten(), value.layer.flatten(), value.source.flatten()
    read = Positions(at.row, torch.where(site == SITES.index("mlp"), at.pos, source))
    require_same_cache(stream, value, at)
    by_sublayer = [_of_sublayer(stream, value, read, s, la, key) for s, la in sublayers_of(site, layer)]
    triples = torch.stack([own.repeat_interleave(k), read.row, read.pos], dim=1)
    distinct, place_of = triples.unique(dim=0, return_inverse=True)
    rows = {name: torch.cat([one[name] for one in by_sublayer]) for name in ("neuron", "u", "depth", "is_mlp", "score")}
    place = place_of[rows["neuron"]]
    rows["neuron"] = distinct[place, 0] * k + rows["neuron"] % max(k, 1)
    places = Positions(distinct[:, 1], distinct[:, 2])
    return Subkeys(**rows, places=places, place=place, prompt=distinct[:, 0], prompts=int(own.max()) + 1)


def subkey_directions(
    stream: Stream, site: Site, layer: int, index: Int[Tensor, "n"], places: Positions, which: str
) -> Float[Tensor, "n d_model"]:
    """Return subkeys of one sublayer as directions of the stream; place ``i`` for neuron ``index[i]``.

    An attention neuron's index counts dimensions through all heads. ``which`` is ``"gate"``, ``"in"`` or ``"v"``.

    Raises:
        ValueError: If the cache lacks a pre-activation, or the model's weights do not give it.
    """
    weights = stream.weights(layer)
    keys, biases = weights.subkeys_of(which, index)
    keys = directions = keys.to(stream.dtype)
    constant = own = torch.zeros(len(index)).to(directions) if biases is None else biases.to(stream.dtype)
    if which == "v" and weights.values_norm:
        inner = _values_scale(stream, layer, index, places)
        directions, constant = directions / inner, constant / inner[:, 0]
    if name := weights.pre_norm[site]:
        norm, norm_bias = stream.norm(layer, name, places), weights.norm_bias(name)
        if norm_bias is not None:
            constant = constant + directions @ norm_bias.to(stream.dtype)
        directions = norm.adjoint(directions) / norm.scale[:, None]
    products = directions * stream.base(site, layer, places)
    if site == "mlp" and weights.experts:  # experts' pre-activations are in no hook, but what they read is
        cached = (stream.at(f"blocks.{layer}.mlp.hook_in", places) * keys).sum(-1) + own
    else:
        cached = cached_pre_activations(stream, layer, index, places, which)
    names = [neuron_name(stream, site, layer, i) for i in index.tolist()]
    require_same(stream, layer, products.sum(-1) + constant, cached, products.norm(dim=-1) + constant.abs(), names)
    return directions


def _values_scale(stream: Stream, layer: int, index: Int[Tensor, "n"], places: Positions) -> Float[Tensor, "n 1"]:
    """Return the scale of the norm that each attention neuron's value passes, of its head if each has one."""
    weights = stream.weights(layer)
    scale = stream.at(f"blocks.{layer}.{weights.values_norm}.hook_scale", places)
    if scale.ndim == 2:
        return scale
    head = index // weights.d_head // weights.shared_by("v")
    return scale[torch.arange(len(index), device=index.device), head]


def _of_sublayer(
    stream: Stream, value: Neurons, read: Positions, site: Site, layer: int, key: Key
) -> dict[str, Tensor]:
    """Return the rows of the value neurons of one sublayer, which read the stream where their values were made."""
    mine = ((value.site == SITES.index(site)) & (value.layer == layer)).flatten().nonzero()[:, 0]
    layer = values_layer(stream.model, layer) if site == "attn" else layer
    weights, index = stream.weights(layer), value.index.flatten()[mine]
    if site == "attn":
        index = index + value.head.flatten()[mine] * weights.d_head
    elif weights.experts:
        _require_experts_add_up(stream, layer, Positions(read.row[mine], read.pos[mine]))
    places, which = Positions(read.row[mine], read.pos[mine]), key_weights(weights, site, key)
    neuron = mine.repeat(len(which))
    return {
        "neuron": neuron,
        "u": torch.cat([subkey_directions(stream, site, layer, index, places, each) for each in which]),
        "depth": torch.full_like(neuron, 2 * layer if weights.parallel else depth_of(site, layer)),
        "is_mlp": torch.full_like(neuron, site == "mlp", dtype=torch.bool),
        "score": value.score.flatten()[neuron].to(stream.dtype) / len(which),
    }


def _require_experts_add_up(stream: Stream, layer: int, places: Positions) -> None:
    """Refuse weights of experts that do not give what their layer wrote: they were changed since the run."""
    row, pos = torch.stack([places.row, places.pos]).unique(dim=1)
    sublayer = stream.sublayer("mlp", layer, Positions(row, pos))
    along = sublayer.out / sublayer.out.norm(dim=-1, keepdim=True).clamp_min(TINY)
    require_neurons_add_up(stream, sublayer, along, sublayer.project_onto(along))


def key_weights(weights: BlockWeights, site: Site, key: Key) -> tuple[str, ...]:
    """Return which weights hold the subkeys asked for: ``"gate"``, ``"in"``, both, or ``"v"``.

    Raises:
        ValueError: If a model without gates is asked for its gates.
    """
    if site == "attn":
        return ("v",)
    if weights.gated:
        return {"gate": ("gate",), "up": ("in",), "both": ("gate", "in")}[key]
    if key == "gate":
        raise ValueError("key='gate': this model's MLPs have no gate; use key='up' or 'both'")
    return ("in",)
