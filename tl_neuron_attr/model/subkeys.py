"""What value neurons read the stream with: their subkeys, as directions of the stream (paper 1, section 3.2).

A neuron's pre-activation is ``norm(h) @ key + bias``. With the norm's scale frozen that is ``h @ u`` plus a constant,
and ``h`` is the sum of everything earlier components wrote: ``u @ component`` says how much each of them contributed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_neuron_attr.model.positions import Positions
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.weights import pre_norm_name
from tl_neuron_attr.numerics.sublayer import SITES, Site
from tl_neuron_attr.results.neurons import Neurons

Key = Literal["gate", "up", "both"]
"""Which subkey of a gated MLP neuron: of ``W_gate``, of ``W_in``, or half of each one's share."""

ILL_CONDITIONED = 1e-3
"""Inner products that cancel to less than this part of their sizes' sum give shares that mean nothing."""


@dataclass(frozen=True)
class Subkeys:
    """One row a value neuron and subkey.

    Attributes:
        neuron: Which value neuron, prompts in a row.
        u: The subkey behind the norm: ``h @ u`` is the pre-activation but for a constant.
        places: The different places read.
        place: Which of them each row reads.
        depth: How many sublayers, counted from the bottom, feed it.
        is_mlp: Whether it is an MLP neuron.
        score: The value neuron's score; half of it for each of two subkeys.
    """

    neuron: Int[Tensor, "n"]
    u: Float[Tensor, "n d_model"]
    places: Positions
    place: Int[Tensor, "n"]
    depth: Int[Tensor, "n"]
    is_mlp: Bool[Tensor, "n"]
    score: Float[Tensor, "n"]

    def only(self, wanted: Bool[Tensor, "n"]) -> "Subkeys":
        """The wanted rows, and the places they read."""
        used, place = self.place[wanted].unique(return_inverse=True)
        rows = {name: getattr(self, name)[wanted] for name in ("neuron", "u", "depth", "is_mlp", "score")}
        return Subkeys(**rows, places=Positions(self.places.row[used], self.places.pos[used]), place=place)

    def total(self, stream: Stream) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        """The sum of a row's inner products with all components that feed it, and of their sizes."""
        signed, size = torch.zeros_like(self.score), torch.zeros_like(self.score)
        for depth, component in components(stream, self.places):
            inner = (component[self.place] * self.u).sum(-1) * (depth < self.depth)
            signed, size = signed + inner, size + inner.abs()
        return signed, size

    def above(self, depth: int) -> Float[Tensor, "batch d_model"]:
        """By place, the sum of the directions of all rows that the component ``depth`` feeds."""
        fed = (depth < self.depth)[:, None] * self.u
        return torch.zeros(len(self.places), self.u.shape[1]).to(fed).index_add(0, self.place, fed)


def components(stream: Stream, places: Positions) -> Sequence[tuple[int, Float[Tensor, "batch d_model"]]]:
    """The embedding (depth -1) and every sublayer's output (``2 * layer``, ``2 * layer + 1``) at each place."""
    outs = [
        (depth_of(site, layer), stream.out(site, layer, places))
        for layer in range(stream.n_layers)
        for site in ("attn", "mlp")
    ]
    return [(-1, stream.at("blocks.0.hook_resid_pre", places)), *outs]


def depth_of(site: Site, layer: int) -> int:
    """A sublayer's place in the stream."""
    return 2 * layer + (site == "mlp")


def subkeys(stream: Stream, value: Neurons, pos: Int[Tensor, "batch"], key: Key) -> Subkeys:
    """The subkeys of ``value``, prompts in a row; MLP neurons read ``pos``, attention neurons their source.

    Raises:
        ValueError: If a neuron's coefficient is not the cache's, or a model without gates is asked for one.
    """
    k = len(value)
    row = torch.arange(value.score.numel() // max(k, 1), device=stream.device).repeat_interleave(k)
    site, layer, source = value.site.flatten(), value.layer.flatten(), value.source.flatten()
    read = Positions(row, torch.where(site == SITES.index("mlp"), pos[row], source))
    _require_same_cache(stream, value, Positions(row, pos[row]))
    parts = [_of_sublayer(stream, value, read, s, la, key) for s, la in _sublayers(site, layer)]
    pairs = torch.stack([read.row, read.pos], dim=1)
    distinct, place_of = pairs.unique(dim=0, return_inverse=True)
    rows = {name: torch.cat([part[name] for part in parts]) for name in ("neuron", "u", "depth", "is_mlp", "score")}
    return Subkeys(**rows, places=Positions(distinct[:, 0], distinct[:, 1]), place=place_of[rows["neuron"]])


def subkey_directions(
    stream: Stream, site: Site, layer: int, index: Int[Tensor, "n"], places: Positions, which: str
) -> Float[Tensor, "n d_model"]:
    """Subkeys of one sublayer as directions of the stream; place ``i`` for neuron ``index[i]``.

    An attention neuron's index counts dimensions through all heads. ``which`` is ``"gate"``, ``"in"`` or ``"v"``.
    """
    block = stream.block(layer)
    keys = _weight(block, which)[:, index].T.to(stream.dtype)
    name = pre_norm_name(block, site)
    if not name:
        return keys
    norm = stream.norm(layer, name, places)
    return norm.adjoint(keys) / norm.scale[:, None]


def _sublayers(site: Tensor, layer: Tensor) -> list[tuple[Site, int]]:
    pairs = torch.stack([site, layer], dim=1).unique(dim=0).tolist()
    return [(SITES[s], la) for s, la in pairs]


def _of_sublayer(
    stream: Stream, value: Neurons, read: Positions, site: Site, layer: int, key: Key
) -> dict[str, Tensor]:
    """The rows of the value neurons of one sublayer."""
    mine = ((value.site == SITES.index(site)) & (value.layer == layer)).flatten().nonzero()[:, 0]
    block, index = stream.block(layer), value.index.flatten()[mine]
    if site == "attn":
        index = index + value.head.flatten()[mine] * block.attn.W_O.shape[1]
    places, which = Positions(read.row[mine], read.pos[mine]), key_weights(block, site, key)
    parallel = site == "mlp" and stream.base_hook(site, layer).endswith("hook_resid_pre")
    neuron = mine.repeat(len(which))
    return {
        "neuron": neuron,
        "u": torch.cat([subkey_directions(stream, site, layer, index, places, each) for each in which]),
        "depth": torch.full_like(neuron, 2 * layer if parallel else depth_of(site, layer)),
        "is_mlp": torch.full_like(neuron, site == "mlp", dtype=torch.bool),
        "score": value.score.flatten()[neuron].to(stream.dtype) / len(which),
    }


def key_weights(block: Any, site: Site, key: Key) -> tuple[str, ...]:
    """Which weights hold the subkeys asked for: ``"gate"``, ``"in"``, both, or ``"v"``.

    Raises:
        ValueError: If a model without gates is asked for its gates.
    """
    if site == "attn":
        return ("v",)
    if getattr(block.mlp, "W_gate", None) is not None:
        return {"gate": ("gate",), "up": ("in",), "both": ("gate", "in")}[key]
    if key == "gate":
        raise ValueError("key='gate': this model's MLPs have no gate; use key='up' or 'both'")
    return ("in",)


def _weight(block: Any, which: str) -> Float[Tensor, "d_model neuron"]:
    if which != "v":
        return block.mlp.W_gate if which == "gate" else block.mlp.W_in
    heads, d_head = block.attn.W_O.shape[:2]
    W_V = block.attn.W_V
    return W_V.repeat_interleave(heads // len(W_V), dim=0).transpose(0, 1).reshape(-1, heads * d_head)


def _require_same_cache(stream: Stream, value: Neurons, scored: Positions) -> None:
    """Refuse neurons whose coefficients are not those of the cache at the scored position."""
    found = torch.empty_like(value.coefficient.flatten())
    site, layer = value.site.flatten(), value.layer.flatten()
    for s, la in _sublayers(site, layer):
        mine = ((site == SITES.index(s)) & (layer == la)).nonzero()[:, 0]
        at = Positions(scored.row[mine], scored.pos[mine])
        index, head, source = (getattr(value, name).flatten()[mine] for name in ("index", "head", "source"))
        n = torch.arange(len(mine), device=stream.device)
        found[mine] = (
            stream.mlp_coefficients(la, at)[n, index]
            if s == "mlp"
            else stream.attn_coefficients(la, at)[n, head, index, source]
        ).to(found.dtype)
    wrong = (found - value.coefficient.flatten()).abs() > 1e-3 * (1e-3 + found.abs())
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0])
        raise ValueError(
            f"value is of another cache or position: {value.flat_labels[i]} has coefficient "
            f"{float(value.coefficient.flatten()[i]):.4f} in value and {float(found[i]):.4f} in cache"
        )
