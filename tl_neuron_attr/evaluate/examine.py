"""All that a knowledge study measures on one prompt (paper 1, sections 4.2 to 4.4)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked_fields
from tl_neuron_attr.evaluate.outcome import Outcome
from tl_neuron_attr.evaluate.select import AskedPrompt
from tl_neuron_attr.knowledge.attribution import (
    attribute_attn_neurons,
    attribute_heads,
    attribute_layers,
    attribute_mlp_neurons,
)
from tl_neuron_attr.knowledge.query_neurons import query_layers, query_neurons
from tl_neuron_attr.knowledge.value_neurons import value_neurons
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.batches import predicting
from tl_neuron_attr.model.components import Component, component_lists
from tl_neuron_attr.model.intervene import ablate
from tl_neuron_attr.model.scored import scored_predictions
from tl_neuron_attr.model.scored_cache import ScoredCache
from tl_neuron_attr.numerics.flat_index import best_of
from tl_neuron_attr.numerics.sublayer import Site
from tl_neuron_attr.results.neurons import Neurons

SEGMENTS = 60
"""Steps of the straight path from the embedding to the final stream (paper 1, Figure 3)."""

SUMMED = 200
"""The best neurons whose scores are summed, and half as many (paper 1, Table 5)."""

CONDITIONS = ("untouched", "value", "random value", "query", "random query")
"""What was zeroed when an outcome was measured."""


EXAMINED = (
    *("layers_attn", "layers_mlp", "heads", "sums"),
    *("query_mlp_attn", "query_mlp_mlp", "query_attn_attn", "query_attn_mlp"),
    *("value_neurons", "query_neurons", "segments", "outcomes"),
)
"""What :func:`examine` returns, by name."""


@typechecked_fields
@dataclass(frozen=True)
class Sizes:
    """How many neurons the experiments take; the paper's by default.

    Attributes:
        value_attn: Attention value neurons zeroed, and whose query neurons are looked for.
        value_mlp: MLP value neurons zeroed.
        query: Query neurons zeroed, and compared with as many value neurons.
        shared: Best neurons of a prompt among which shared ones are counted.
        heads: The share of all heads zeroed for other types of knowledge.
    """

    value_attn: int = 200
    value_mlp: int = 100
    query: int = 1000
    shared: int = 300
    heads: float = 0.01

    def __post_init__(self) -> None:
        """Refuse sizes that mean nothing."""
        for name, value in asdict(self).items():
            if value <= 0:
                raise ValueError(f"sizes.{name} must be above 0, got {value}")

    def best_heads(self, mean: Float[Tensor, "n"]) -> list[int]:
        """Return the places of the best heads, given every head's mean score: at least one.

        A mean of exactly zero is of no head: its layer has fewer, or none.
        """
        there = mean.nonzero()[:, 0]
        return there[best_of(mean[there], max(1, round(self.heads * len(there))))].tolist()

    @classmethod
    def fitting(cls, model: Any) -> "Sizes":
        """Return the paper's sizes for models of 100,000 MLP neurons and more, about a tenth for smaller ones."""
        large = _mlp_neurons(model) >= 100_000
        return cls() if large else cls(value_attn=20, value_mlp=10, query=100, shared=30, heads=0.05)

    def capped(self, model: Any, length: int) -> "Sizes":
        """Return the sizes, none above what the model has for a prompt of ``length`` tokens."""
        mlp, layers = _mlp_neurons(model), range(model.cfg.n_layers)
        attn = sum(dimensions.n_heads(model, i) * dimensions.d_head(model, i) for i in layers) * length
        below = mlp - dimensions.d_mlp(model, layers[-1])
        return Sizes(
            min(self.value_attn, attn),
            min(self.value_mlp, mlp),
            max(1, min(self.query, below)),
            min(self.shared, mlp),
            self.heads,
        )


@torch.no_grad()
def examine(model: Any, asked: AskedPrompt, *, sizes: Sizes, seed: int, every_neuron: bool = True) -> dict[str, Tensor]:
    """Return scores, sums, best neurons and outcomes of one prompt; ``seed`` draws its random neurons.

    Without ``every_neuron``, only the best neurons are scored and summed.
    """
    tokens, target = asked.tokens[None], asked.target
    logits, cache = model.run_with_cache(tokens)
    sizes = sizes.capped(model, tokens.shape[1])
    q = scored_predictions(cache, target[None])
    direct = layers_and_heads(q)
    best_mlp = _best(q, "mlp", max(sizes.value_mlp, sizes.query, SUMMED))
    best_attn = _best(q, "attn", max(sizes.value_attn, SUMMED))
    value_mlp, value_attn = best_mlp.top(sizes.value_mlp), best_attn.top(sizes.value_attn)
    sums = [best_sums(best_attn.score), best_sums(best_mlp.score)]
    if every_neuron:
        grids = attribute_attn_neurons(q, progress=False), attribute_mlp_neurons(q, progress=False)
        sums = [torch.cat([all_sums(grid), best], dim=1) for grid, best in zip(grids, sums, strict=True)]
    feeding = query_neurons(q, value_attn, sizes.query, sites=("mlp",), text=False)
    queried = layers_queried(q, value_mlp, value_attn)
    return {
        **{name: scores[0] for name, scores in direct.items()},
        "sums": torch.cat(sums),
        **{name: scores[0] for name, scores in queried.items()},
        "value_neurons": _flat(model, best_mlp.top(sizes.query)),
        "query_neurons": _flat(model, feeding),
        "segments": _segments(q),
        "outcomes": _outcomes(model, tokens, target, logits, value_attn, value_mlp, feeding, seed),
    }


def layers_and_heads(q: ScoredCache) -> dict[str, Tensor]:
    """Return the scores of layers and heads by name, one row per prompt."""
    layers, heads = attribute_layers(q), attribute_heads(q)
    return {"layers_attn": layers.attn, "layers_mlp": layers.mlp, "heads": heads}


def layers_queried(q: ScoredCache, value_mlp: Neurons, value_attn: Neurons) -> dict[str, Tensor]:
    """Return the query layers' scores by the value neurons' site and their own, one row per prompt."""
    found = {"mlp": query_layers(q, value_mlp), "attn": query_layers(q, value_attn)}
    return {f"query_{of}_{site}": getattr(scores, site) for of, scores in found.items() for site in ("attn", "mlp")}


def zeroed_sets(
    model: Any, value_attn: Neurons, value_mlp: Neurons, feeding: Neurons, generators: Sequence[torch.Generator]
) -> list[list[list[Component]]]:
    """Return what is zeroed in each prompt: its value neurons, as many random ones, its query neurons, as many random.

    That is :data:`CONDITIONS` but for the first. Each prompt's random neurons are drawn by its own generator.
    """
    lists = zip(*(component_lists(model, found) for found in (value_attn, value_mlp, feeding)), strict=True)
    sets: list[list[list[Component]]] = []
    for (attn, mlp, query), rng in zip(lists, generators, strict=True):
        value = attn + mlp
        sets.append([value, random_like(model, value, rng), query, random_like(model, query, rng)])
    return sets


def measured_outcomes(
    model: Any, tokens: Int[Tensor, "batch pos"], target: Int[Tensor, "token"]
) -> Float[Tensor, "batch 3"]:
    """Return rank, probability and log-probability of the target, which rows predict at their end, by the model now."""
    return _measured(model(tokens), target)


def _best(q: ScoredCache, site: Site, k: int) -> Neurons:
    return value_neurons(q, k=min(k, q.stream.neuron_count((site,))), sites=(site,), text=False)


def all_sums(scores: Float[Tensor, "batch *n"]) -> Float[Tensor, "batch 2"]:
    """Return the sums of paper 1, Table 5: all neurons, and those above zero."""
    every = scores.flatten(1)
    return torch.stack([every.sum(1), every.clamp_min(0).sum(1)], dim=1)


def best_sums(best: Float[Tensor, "batch k"]) -> Float[Tensor, "batch 2"]:
    """Return the sums of paper 1, Table 5: the best 100, the best 200, of scores with the best first."""
    return torch.stack([best[:, : SUMMED // 2].sum(1), best[:, :SUMMED].sum(1)], dim=1)


def _flat(model: Any, neurons: Neurons) -> Int[Tensor, "k"]:
    """Return MLP neurons numbered through the layers."""
    return (neurons.layer * widest_mlp(model) + neurons.index)[0]


def _segments(q: ScoredCache) -> Float[Tensor, "point"]:
    """Return ``log p`` of the answer along the straight line from the first stream to the last, readout frozen."""
    first, last = q.stream.base("attn", 0, q.places)[:, None], q.stream.final(q.places)[:, None]
    steps = torch.linspace(0, 1, SEGMENTS + 1).to(first)[:, None]
    points = q.readout.logits(first + steps * (last - first))
    each = q.readout.finish(points)[torch.arange(len(points)), :, q.target]
    return each.sum(0)


def _outcomes(
    model: Any,
    tokens: Int[Tensor, "1 pos"],
    target: Int[Tensor, "token"],
    logits: Float[Tensor, "1 pos d_vocab"],
    value_attn: Neurons,
    value_mlp: Neurons,
    feeding: Neurons,
    seed: int,
) -> Float[Tensor, "condition 3"]:
    (sets,) = zeroed_sets(model, value_attn, value_mlp, feeding, [torch.Generator().manual_seed(seed)])
    with ablate(model, sets):
        ablated = measured_outcomes(model, tokens.expand(len(sets), -1), target)
    return torch.cat([_measured(logits, target), ablated])


def random_like(model: Any, components: Sequence[Component], rng: torch.Generator) -> list[Component]:
    """Return as many random neurons of each site as ``components`` has, drawn over all layers."""
    count = sum(component[0] == "mlp" for component in components)
    layers = range(model.cfg.n_layers)
    mlp = _drawn([dimensions.d_mlp(model, i) for i in layers], count, rng)
    attn = _drawn(
        [dimensions.n_heads(model, i) * dimensions.d_head(model, i) for i in layers], len(components) - count, rng
    )
    chosen: list[Component] = [("mlp", layer, index) for layer, index in mlp]
    return chosen + [("attn", layer, *divmod(index, dimensions.d_head(model, layer))) for layer, index in attn]


def _drawn(widths: Sequence[int], n: int, rng: torch.Generator) -> list[tuple[int, int]]:
    """Return ``n`` random neurons of layers that have ``widths`` of them: layer and number within it."""
    drawn = torch.randperm(sum(widths), generator=rng)[:n]
    ends = torch.tensor(widths).cumsum(0)
    layer = torch.bucketize(drawn, ends, right=True)
    return list(zip(layer.tolist(), (drawn - (ends - torch.tensor(widths))[layer]).tolist(), strict=True))


def _measured(logits: Float[Tensor, "batch pos d_vocab"], target: Int[Tensor, "token"]) -> Float[Tensor, "batch 3"]:
    found = Outcome.of(predicting(logits, target), target.expand(len(logits), -1).to(logits.device))
    return torch.stack([found.rank.float(), found.prob.float(), found.log_prob.float()], dim=1)


def _mlp_neurons(model: Any) -> int:
    return sum(dimensions.d_mlp(model, layer) for layer in range(model.cfg.n_layers))


def widest_mlp(model: Any) -> int:
    """Return the MLP neurons of the widest layer: what layers are numbered by where their widths differ."""
    return max(dimensions.d_mlp(model, layer) for layer in range(model.cfg.n_layers))
