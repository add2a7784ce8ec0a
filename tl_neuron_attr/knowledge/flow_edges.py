"""The numbers of a flow: what passes from query neurons and positions through heads to the value neurons."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.components import Head
from tl_neuron_attr.model.positions import Positions
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.subkey_checks import neuron_name
from tl_neuron_attr.model.subkeys import Subkeys
from tl_neuron_attr.numerics.sublayer import SITES
from tl_neuron_attr.results.neurons import Neurons


@dataclass(frozen=True)
class QueryNeuronAt:
    """An MLP neuron active at a position, its coefficient there, and what it passes to each head."""

    label: str
    layer: int
    index: int
    pos: int
    coefficient: float
    to: dict[Head, float]

    @property
    def name(self) -> str:
        """``L3N14@5``: MLP neuron 14 of layer 3, at position 5; that of an expert ``L3E2N14@5``."""
        return f"{self.label}@{self.pos}"


def direct(stream: Stream, value: Neurons) -> Float[Tensor, "layer head source"]:
    """Return the scores of attention value neurons, by head and source."""
    mine = value.site == SITES.index("attn")
    grid = torch.zeros(stream.n_layers, dimensions.most_heads(stream.model), stream.shape[1]).to(value.score)
    at = (value.layer[mine], value.head[mine], value.source[mine])
    return grid.index_put(at, value.score[mine], accumulate=True)


def through_heads(stream: Stream, rows: Subkeys, value: Neurons) -> Float[Tensor, "neuron layer head source"]:
    """Return the query scores of heads, by source, for each MLP value neuron."""
    deep = (value.site == SITES.index("mlp")).nonzero()[:, 0]
    mine = rows.only(rows.is_mlp)
    shape = (len(deep), stream.n_layers, dimensions.most_heads(stream.model), stream.shape[1])
    scores = torch.zeros(shape).to(value.score)
    for layer in range(stream.n_layers) if len(deep) else ():
        fed = (mine.depth > 2 * layer) & (mine.neuron == deep[:, None])
        sublayer = stream.sublayer("attn", layer, mine.places)
        for place in range(len(mine.places)):
            at, one = mine.place == place, torch.tensor([place], device=stream.device)
            read = sublayer.select(one).project_heads_onto(fed[:, at].to(mine.u) @ mine.u[at])
            scores[:, layer] += read.to(scores)
    return scores


def best_heads(scores: Float[Tensor, "layer head source"], n: int) -> list[Head]:
    """Return the ``n`` heads through which most passes, whatever its sign."""
    size = scores.abs().sum(-1)
    best = [divmod(i, size.shape[1]) for i in size.flatten().topk(min(n, size.numel())).indices.tolist()]
    return [(layer, head) for layer, head in best if size[layer, head] > 0]


def query_neurons_at(
    stream: Stream, rows: Subkeys, value: Neurons, heads: Sequence[Head], n: int
) -> list[QueryNeuronAt]:
    """Return the MLP neurons, each at a position, that pass most to the value neurons of ``heads``."""
    groups = _by_head_and_source(rows, value, heads)
    if not groups or n < 1:
        return []
    row = torch.zeros(len(groups), dtype=torch.long, device=stream.device)
    sources = torch.tensor([source for _, source in groups], device=stream.device)
    positions, at = sources.unique(return_inverse=True)
    found: list[Tensor] = []
    totals: list[Tensor] = []
    for layer in range(stream.n_layers):
        fed = [u * (depth > 2 * layer + 1) for u, depth in groups.values()]
        sublayer = stream.sublayer("mlp", layer, Positions(row, sources))
        found.append(sublayer.project_onto(torch.stack(fed))[..., 0])
        totals.append(torch.zeros(len(positions), found[-1].shape[1]).to(found[-1]).index_add(0, at, found[-1]))
    widest = max(each.shape[1] for each in totals)
    total = torch.stack([pad(each, (0, widest - each.shape[1])) for each in totals])
    best = total.flatten().topk(min(n, total.numel()))
    chosen = zip(*torch.unravel_index(best.indices, total.shape), best.values, strict=True)
    return [
        _at_position(stream, int(layer), int(index), int(positions[place]), list(groups), found[int(layer)])
        for layer, place, index, score in chosen
        if score > 0
    ]


def _by_head_and_source(
    rows: Subkeys, value: Neurons, heads: Sequence[Head]
) -> dict[tuple[Head, int], tuple[Float[Tensor, "d_model"], int]]:
    """Return each head and source's summed subkeys of value neurons, and the number of sublayers that feed them."""
    groups: dict[tuple[Head, int], tuple[Tensor, int]] = {}
    for i, neuron in enumerate(rows.neuron.tolist()):
        head = (int(value.layer[neuron]), int(value.head[neuron]))
        if not rows.is_mlp[i] and head in heads:
            name = (head, int(value.source[neuron]))
            before = groups[name][0] if name in groups else torch.zeros_like(rows.u[i])
            groups[name] = (before + rows.u[i], int(rows.depth[i]))
    return groups


def _at_position(
    stream: Stream,
    layer: int,
    index: int,
    pos: int,
    groups: list[tuple[Head, int]],
    passed: Float[Tensor, "group d_mlp"],
) -> QueryNeuronAt:
    to = {head: float(passed[g, index]) for g, (head, source) in enumerate(groups) if source == pos}
    place = stream.positions(pos)
    coefficient = float(stream.mlp_coefficients(layer, place)[0, index])
    return QueryNeuronAt(neuron_name(stream, "mlp", layer, index), layer, index, pos, coefficient, to)
