"""Naming heads and neurons of a model: what interventions take, checked once.

A head is ``(layer, head)``; an MLP neuron ``("mlp", layer, index)``; an attention neuron ``("attn", layer, head,
dimension)``; a :class:`~tl_neuron_attr.Neurons` is all of its neurons.
"""

from collections.abc import Sequence
from typing import Any, Literal

from tl_neuron_attr.numerics.sublayer import SITES
from tl_neuron_attr.results.neurons import Neurons

Head = tuple[int, int]
MlpNeuron = tuple[Literal["mlp"], int, int]
AttnNeuron = tuple[Literal["attn"], int, int, int]
Part = Head | MlpNeuron | AttnNeuron
Parts = Neurons | Sequence[Part] | Sequence[list[Part]]


def head_name(layer: int, head: int | None) -> str:
    """``L3H2``, or ``L3`` for all heads of the layer.

    Examples:
        >>> head_name(3, 2), head_name(3, None)
        ('L3H2', 'L3')
    """
    return f"L{layer}" if head is None else f"L{layer}H{head}"


def required_heads(
    model: Any, heads: Sequence[Head] | None, *, fix: str = "give at least one (layer, head) pair"
) -> list[Head]:
    """The heads given, checked; all heads of the model if none are asked for by ``None``.

    Raises:
        ValueError: If there is none, with what can be done.
        IndexError: If one is out of range or named twice.
    """
    if heads is None:
        return [(layer, head) for layer, block in enumerate(model.blocks) for head in range(len(block.attn.W_O))]
    if not heads:
        raise ValueError(f"heads is empty: {fix}")
    rows_of(model, list(heads))
    return list(heads)


def rows_of(model: Any, parts: Parts) -> list[list[Part]]:
    """The parts of each prompt: one list for all prompts, or one a prompt, of lists or of neurons of a batch.

    An attention neuron of a search belongs to a source position; what is named here is its column of ``W_O``, so
    several of them can be one part.

    Raises:
        IndexError: If a layer, head, dimension or neuron is out of range, or a part is named twice.
        ValueError: If MLP neurons of a mixture of experts are named.
    """
    if isinstance(parts, Neurons):
        prompts = [parts[i] for i in range(len(parts.score))] if parts.batched else [parts]
        rows = [list(dict.fromkeys(_named(one))) for one in prompts]
    else:
        rows = [each for each in parts if isinstance(each, list)] or [[p for p in parts if isinstance(p, tuple)]]
    for row in rows:
        if len(set(row)) < len(row):
            twice = next(part for i, part in enumerate(row) if part in row[:i])
            raise IndexError(f"{twice} is named twice")
    for part in {part for row in rows for part in row}:
        _check(model, part)
    return rows


def _named(neurons: Neurons) -> list[Part]:
    at = zip(*(neurons.flat(name) for name in ("site", "layer", "head", "index")), strict=True)
    return [("mlp", la, i) if SITES[int(s)] == "mlp" else ("attn", la, h, i) for s, la, h, i in at]


def _check(model: Any, part: Part) -> None:
    layer = part[0] if len(part) == 2 else part[1]
    within(f"layer of {part}", layer, model.cfg.n_layers)
    block = model.blocks[layer]
    if len(part) == 3:
        W_out = getattr(block.mlp, "W_out", None)
        if W_out is None:
            raise ValueError(f"{part}: layer {layer} has no MLP neurons (mixture of experts)")
        within(f"neuron of {part}", part[2], len(W_out))
        return
    heads, d_head, _ = block.attn.W_O.shape
    within(f"head of {part}", part[1] if len(part) == 2 else part[2], heads)
    if len(part) == 4:
        within(f"dimension of {part}", part[3], d_head)


def within(name: str, value: int, size: int) -> None:
    """Refuse an index outside ``0 .. size - 1``; negative ones are not counted from the end.

    Raises:
        IndexError: With the valid range.
    """
    if not 0 <= value < size:
        raise IndexError(f"{name} must lie between 0 and {size - 1}, got {value}")
