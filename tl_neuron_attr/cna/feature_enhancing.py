"""Feature enhancing: shallow MLP neurons whose write, transformed by attention, fits the root's key (paper 3,
3.4, stage a).

What a shallow neuron wrote at a source position is a component like any other: its inner product with the direction
that a hop carried back to that position (:mod:`tl_neuron_attr.cna.feature_transferring`) is the part of the root's
pre-activation that came from the neuron by that hop. Before the hop the neuron's tokens may say nothing, after it they
do: it is *hidden-interpretable*.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.cna.feature_transferring import FeatureTransferring, Hop
from tl_neuron_attr.knowledge.vocabulary import top_tokens, transformed_tokens
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.positions import Positions
from tl_neuron_attr.model.scored import checked_stream
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.results.table import PrintsAsTable, Table
from tl_neuron_attr.results.token_lists import TokenLists, listed
from tl_neuron_attr.results.token_text import visible

_TOKENS = 6  # a row of a printed table


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class FeatureEnhancing(PrintsAsTable):
    """Shallow neurons, each at a position and by a hop, those that fed the root most first.

    Attributes:
        root: The neuron they fed.
        neurons: The neurons; their ``score`` is the part of the root's pre-activation, all subkeys summed.
        pos: The position of each.
        hop: Which of :attr:`hops` each went by.
        hops: The names of the hops.
        inner: By subkey, the part of the root's pre-activation.
        source_tokens: The token at each neuron's position.
        before: The tokens of what each neuron wrote.
        after: The same, transformed by the attention of its hop (paper 3, Table 7).
    """

    root: Neurons
    neurons: Neurons
    pos: Int[Tensor, "k"]
    hop: Int[Tensor, "k"]
    hops: tuple[str, ...]
    inner: Mapping[str, Float[Tensor, "k"]]
    source_tokens: tuple[str, ...]
    before: TokenLists
    after: TokenLists

    @property
    def names(self) -> list[str]:
        """Return labels such as ``L1N14@2``: MLP neuron 14 of layer 1, at position 2."""
        return [f"{name}@{pos}" for name, pos in zip(self.neurons.flat_labels, self.pos.tolist(), strict=True)]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per neuron and hop."""
        neurons = self.neurons
        return pd.DataFrame(
            {
                "neuron": self.names,
                "layer": neurons.layer.tolist(),
                "index": neurons.index.tolist(),
                "pos": self.pos.tolist(),
                "token": list(self.source_tokens),
                "hop": [self.hops[i] for i in self.hop.tolist()],
                "coefficient": neurons.coefficient.tolist(),
                **{name: part.tolist() for name, part in self.inner.items()},
                "sum": neurons.score.tolist(),
                "before": [list(tokens) for tokens in self.before.promoted],
                "after": [list(tokens) for tokens in self.after.promoted],
            }
        )

    def table(self) -> Table:
        """Return Table 7: tokens before and after the hop, gate and up apart."""
        keys = (*self.inner, "sum")
        rows = [
            (
                row["neuron"],
                visible(row["token"]),
                row["hop"],
                *(row[key] for key in keys),
                listed(row["before"], 4),
                listed(row["after"], 4),
            )
            for row in self.to_frame().to_dict("records")
        ]
        caption = f"shallow neurons that fed {self.root.flat_labels[0]}, parts of its pre-activation"
        return Table(("neuron", "at", "by", *keys, "promotes", "and after the hop"), rows, caption)


@typechecked
@torch.no_grad()
def feature_enhancing(
    cache: ActivationCache, transferring: FeatureTransferring, *, k: int = 20, model: Any = None
) -> FeatureEnhancing:
    """Return the shallow MLP neurons that fed a root most, by the hops that carried what it reads (paper 3, Table 7).

    All MLP neurons below a hop's attention, at all positions it read, are ranked by the inner product of what they
    wrote with the root's subkeys, gate and up summed, in the sign of all that the hop carried: if the root was
    inhibited, the neurons that inhibited it come first. The authors rank by the same sum (their notebook).

    Args:
        cache: The run of one prompt.
        transferring: The hops, found in that run.
        k: How many; fewer where fewer lie below.
        model: The model that made the cache; ``cache.model`` by default.

    Raises:
        ValueError: If ``k`` is below 1, no MLP lies below a hop, the hops are of another prompt, or the cache lacks
            what MLP neurons need.

    Examples:
        >>> from tl_neuron_attr import cna, demo
        >>> model = demo.load()
        >>> _, cache = model.run_with_cache("3 + 5 =")
        >>> deep = cna.feature_predicting(model, "3 + 5 =", "8")
        >>> root = cna.prediction_enhancing(cache, deep.neurons).root_neuron
        >>> found = cna.feature_enhancing(cache, cna.feature_transferring(cache, root, deep.head), k=5)
        >>> found.to_frame()["token"].tolist()[:2]
        ['5', '5']
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    stream, _, _ = checked_stream(cache, ("mlp",), model=model)
    _require_same_run(stream, transferring)
    found = [_best(stream, hop, k) for hop in transferring.hops if hop.layer > 0]
    if not found:
        raise ValueError(f"no MLP lies below {transferring.hops[0].name}: take a head of a higher layer")
    by_hop = torch.cat([torch.full((len(best.sign_score),), i) for i, best in enumerate(found)])
    order = torch.cat([best.sign_score for best in found]).sort(descending=True, stable=True).indices[:k].cpu()
    hop = by_hop[order]
    layer, index, pos, coefficient = (
        torch.cat([getattr(best, name) for best in found])[order] for name in ("layer", "index", "pos", "coefficient")
    )
    names = transferring.hops[0].contributions
    inner = {name: torch.cat([best.inner[name] for best in found])[order] for name in names}
    score = torch.stack(list(inner.values())).sum(0)
    neurons = Neurons.of_mlp(layer, index, coefficient=coefficient, score=score)
    tokens = transferring.hops[0].tokens
    return FeatureEnhancing(
        root=transferring.root,
        neurons=neurons,
        pos=pos,
        hop=hop,
        hops=tuple(each.name for each in transferring.hops),
        inner=inner,
        source_tokens=tuple(tokens[i] for i in pos.tolist()),
        before=top_tokens(stream.model, neurons, min(_TOKENS, dimensions.d_vocab(stream.model))),
        after=_after(stream.model, neurons, hop, transferring.hops),
    )


@dataclass(frozen=True)
class _Best:
    """The best neurons of a hop."""

    layer: Int[Tensor, "n"]
    index: Int[Tensor, "n"]
    pos: Int[Tensor, "n"]
    coefficient: Float[Tensor, "n"]
    inner: Mapping[str, Float[Tensor, "n"]]
    sign_score: Float[Tensor, "n"]


def _best(stream: Stream, hop: Hop, k: int) -> _Best:
    sources = torch.arange(hop.pos + 1, device=stream.device)
    places = Positions(torch.zeros_like(sources), sources)
    sublayers = [stream.sublayer("mlp", layer, places) for layer in range(hop.layer)]
    inner = {
        name: torch.stack([sublayer.project_onto(direction)[..., 0] for sublayer in sublayers])
        for name, direction in hop.directions.items()
    }
    total = hop.sign * torch.stack(list(inner.values())).sum(0)
    best = total.flatten().topk(min(k, total.numel()))
    layer, pos, index = torch.unravel_index(best.indices, total.shape)
    coefficient = torch.stack([sublayer.coefficients[..., 0] for sublayer in sublayers])[layer, pos, index]
    return _Best(
        layer, index, pos, coefficient, {name: part[layer, pos, index] for name, part in inner.items()}, best.values
    )


def _after(model: Any, neurons: Neurons, hop: Int[Tensor, "k"], hops: tuple[Hop, ...]) -> TokenLists:
    """Return each neuron's tokens as transformed by its own hop."""
    k = min(_TOKENS, dimensions.d_vocab(model))
    transformed = [transformed_tokens(model, neurons, each.layer, each.head, k=k) for each in hops]
    mine = list(enumerate(hop.tolist()))
    return TokenLists(
        labels=tuple(transformed[h].labels[i] for i, h in mine),
        promoted=tuple(transformed[h].promoted[i] for i, h in mine),
        suppressed=tuple(transformed[h].suppressed[i] for i, h in mine),
    )


def _require_same_run(stream: Stream, transferring: FeatureTransferring) -> None:
    """Refuse hops of another prompt or of another model."""
    batch, length, d_model = stream.shape
    first = transferring.hops[0]
    width = next(iter(first.directions.values())).shape[1]
    if batch != 1 or first.pos >= length or width != d_model or first.layer >= stream.n_layers:
        raise ValueError(
            f"transferring is of another run: it has position {first.pos}, layer {first.layer} and width {width}, "
            f"cache {batch} prompts of {length} tokens, {stream.n_layers} layers and width {d_model}"
        )
