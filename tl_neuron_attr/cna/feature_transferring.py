"""Feature transferring: which positions and layers wrote what the head read (paper 3, stage b).

The root's subkey ``u`` is a direction of the stream at the scored position. What a head wrote there is linear in the
streams it read, its pattern and all norms as they were, so ``u`` can be carried back through the head to a direction at
each source position:

    part of u . (the head's write) that component c wrote at source s
        = pattern[s] * ( W_O W_V norm_s(c) ) . u = c . direction[s].

Of the components found, an attention layer wrote what it read at other positions: one more hop back, through that
layer. Constants (value and norm biases) are no component's and are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.cna.prediction_enhancing import subkey_names
from tl_neuron_attr.cna.selection import only_prompt
from tl_neuron_attr.knowledge.vocabulary import prompt_tokens
from tl_neuron_attr.model.components import Head, NamedHead, component_lists, head_name, required_head
from tl_neuron_attr.model.head_inputs import carried_back
from tl_neuron_attr.model.positions import Pos, Positions
from tl_neuron_attr.model.scored import checked_stream
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.subkeys import components, depth_of, subkey_directions
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.results.table import PrintsAsTable, Table
from tl_neuron_attr.results.token_text import visible

_SHOWN = 20  # rows of a printed table: one screen


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class Hop(PrintsAsTable):
    """What one head, or all heads of a layer, carried to a position, by source and component.

    Attributes:
        layer: The attention layer.
        head: The head; None for all heads of the layer.
        pos: The position it carried to.
        tokens: The prompt's tokens up to there.
        directions: By subkey, a direction at each source position.
        contributions: By subkey, the part that each component wrote at each source position. Components are the
            embedding, then attention and MLP of layer 0, and so on below :attr:`layer`.
    """

    layer: int
    head: int | None
    pos: int
    tokens: tuple[str, ...]
    directions: Mapping[str, Float[Tensor, "source d_model"]]
    contributions: Mapping[str, Float[Tensor, "component source"]]

    @property
    def name(self) -> str:
        """Return ``L3H2``, or ``L3`` for all heads."""
        return head_name(self.layer, self.head)

    @property
    def total(self) -> Float[Tensor, "component source"]:
        """Return the contributions of all subkeys summed."""
        return torch.stack(list(self.contributions.values())).sum(0)

    @property
    def sign(self) -> int:
        """Return -1 if the contributions together lowered the pre-activation, inhibiting the neuron; else 1."""
        return -1 if float(self.total.sum()) < 0 else 1

    def best_attention(self) -> tuple[int, int] | None:
        """Return the attention layer and position that wrote most of it, in its own sign; None if none wrote any."""
        attn = self.sign * self.total[1::2]
        if attn.numel() == 0 or float(attn.max()) <= 0:
            return None
        layer, source = divmod(int(attn.argmax()), attn.shape[1])
        return layer, source

    def to_frame(self) -> pd.DataFrame:
        """Return one row per component and source position, largest first."""
        names = ["embed", *(f"{site} {layer}" for layer in range(self.layer) for site in ("attn", "mlp"))]
        rows = [
            {"hop": self.name, "component": name, "source": source, "token": self.tokens[source]}
            | {key: float(part[i, source]) for key, part in self.contributions.items()}
            | {"sum": float(self.total[i, source])}
            for i, name in enumerate(names)
            for source in range(len(self.tokens))
        ]
        return pd.DataFrame(rows).sort_values("sum", ascending=False, key=abs, ignore_index=True)

    def table(self) -> Table:
        """Return the largest contributions."""
        keys = (*self.contributions, "sum")
        rows = [
            (row["component"], f"{visible(row['token'])} @{row['source']}", *(row[key] for key in keys))
            for row in self.to_frame().head(_SHOWN).to_dict("records")
        ]
        caption = f"what {self.name} carried to position {self.pos}, contributions to a pre-activation"
        return Table(("component", "source", *keys), rows, caption)


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class FeatureTransferring(PrintsAsTable):
    """How what a root neuron reads came to the scored position.

    Attributes:
        root: The neuron whose subkey is followed.
        hops: From the head backwards.
    """

    root: Neurons
    hops: tuple[Hop, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return the rows of all hops."""
        return pd.concat([hop.to_frame() for hop in self.hops], ignore_index=True)

    def table(self) -> Table:
        """Return the largest contributions of each hop."""
        tables = [hop.table() for hop in self.hops]
        rows = [(hop.name, *row) for hop, table in zip(self.hops, tables, strict=True) for row in table.rows[:8]]
        return Table(
            ("hop", *tables[0].headings),
            rows,
            f"what fed {self.root.flat_labels[0]}, contributions to a pre-activation",
        )


@typechecked
@torch.no_grad()
def feature_transferring(
    cache: ActivationCache, root: Neurons, head: NamedHead, *, hops: int = 2, pos: Pos = -1, model: Any = None
) -> FeatureTransferring:
    """Follow a neuron's subkey back through a head, then through the attention layer that wrote most of what it read.

    Args:
        cache: The run of one prompt.
        root: One MLP neuron of a layer above the head's or of its own: the root of the deep neurons.
        head: The head.
        hops: How often to go back; fewer where no attention layer wrote any of it.
        pos: The position scored.
        model: The model that made the cache; ``cache.model`` by default.

    Raises:
        ValueError: If the cache holds several prompts, ``root`` is not one MLP neuron that the head feeds, or ``hops``
            is not at least one.
        IndexError: If the head, neuron or position is out of range.

    Examples:
        >>> from tl_neuron_attr import cna, demo
        >>> model = demo.load()
        >>> _, cache = model.run_with_cache("3 + 5 =")
        >>> deep = cna.feature_predicting(model, "3 + 5 =", "8", head=(2, 3))
        >>> root = cna.prediction_enhancing(cache, deep.neurons).root_neuron
        >>> found = cna.feature_transferring(cache, root, deep.head)
        >>> found.hops[0].name
        'L2H3'
    """
    stream, places, _ = checked_stream(cache, ("attn", "mlp"), pos=pos, model=model, reads=True)
    one = only_prompt(stream, root)
    (layer, number), scored = required_head(stream.model, head), int(places.pos[0])
    _require_fed(stream, one, (layer, number))
    if hops < 1:
        raise ValueError(f"hops must be at least 1, got {hops}")
    index = one.index.reshape(1)
    carried = {
        name: subkey_directions(stream, "mlp", int(one.layer[0]), index, places, which)[0]
        for name, which in subkey_names(stream.weights(0)).items()
    }
    found = [_hop(stream, layer, number, scored, carried)]
    while len(found) < hops and (best := found[-1].best_attention()) is not None:
        there = {name: directions[best[1]] for name, directions in found[-1].directions.items()}
        found.append(_hop(stream, best[0], None, best[1], there))
    return FeatureTransferring(one, tuple(found))


def _hop(
    stream: Stream, layer: int, head: int | None, pos: int, carried: Mapping[str, Float[Tensor, "d_model"]]
) -> Hop:
    directions = {name: carried_back(stream, layer, head, pos, u) for name, u in carried.items()}
    sources = torch.arange(pos + 1, device=stream.device)
    below = [
        value
        for depth, value in components(stream, Positions(torch.zeros_like(sources), sources))
        if depth < depth_of("attn", layer)
    ]
    written = torch.stack(below)
    contributions = {name: (written * direction).sum(-1) for name, direction in directions.items()}
    ids = stream.tokens()
    tokens = ("",) * (pos + 1) if ids is None else prompt_tokens(stream.model, ids)[0][: pos + 1]
    return Hop(layer, head, pos, tokens, directions, contributions)


def _require_fed(stream: Stream, root: Neurons, head: Head) -> None:
    """Refuse a root that is not one MLP neuron which reads what the head wrote."""
    named = component_lists(stream.model, root)[0]
    if len(named) != 1 or named[0][0] != "mlp":
        raise ValueError(f"root must be one MLP neuron, got {root.flat_labels}")
    layer = int(root.layer[0])
    if head[0] > layer or (stream.weights(layer).parallel and head[0] == layer):
        raise ValueError(
            f"root {root.flat_labels[0]} does not read what head L{head[0]}H{head[1]} wrote: take a higher one"
        )
