"""Keep some MLP neurons of a model and zero or remove the others (paper 3, Table 11)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.active_edits import Change, require_none
from tl_neuron_attr.model.components import Components, MlpNeuron, component_lists
from tl_neuron_attr.model.intervene import Edit, edit
from tl_neuron_attr.model.within import within


@dataclass(frozen=True)
class Shortened:
    """A linear module some of whose neurons were removed: what it was."""

    module: Any
    before: Mapping[str, Any]


@dataclass
class Removal(Change):
    """Removed neurons. Ends with :meth:`undo`, or as a context manager, in which no other edit may begin.

    Attributes:
        modules: Which modules were changed; empty once undone.
    """

    modules: list[Shortened]

    def undo(self) -> None:
        """Put every neuron back in its place; what was changed in the smaller model meanwhile is lost."""
        for shortened in self.modules:
            for name, value in shortened.before.items():
                setattr(shortened.module, name, value)
        self.modules.clear()


@typechecked
@torch.no_grad()
def prune_mlp(model: Any, keep: Components, layers: Sequence[int], *, structured: bool = False) -> Edit | Removal:
    """Keep the listed MLP neurons of some layers; the others write nothing any more, or are gone.

    The neurons that stay are counted anew within their layer when the others are removed, in their old order. Biases of
    the layer's output stay.

    Args:
        model: The model.
        keep: MLP neurons, as in :func:`~tl_neuron_attr.ablate`; neurons of a batch are united. Those of other layers
            are ignored.
        layers: The layers pruned.
        structured: Whether the others are removed, so that the layer is smaller and faster, or zeroed.

    Returns:
        What undoes it, a context manager too.

    Raises:
        ValueError: If ``keep`` is empty or holds anything but MLP neurons, none of it lies in one of the layers, the
            model is inside the ``with`` block of another edit, or neurons cannot be removed from this architecture.
        IndexError: If a neuron or layer is out of range or named twice.

    Examples:
        >>> from tl_neuron_attr import cna, demo
        >>> model = demo.load()
        >>> with cna.prune_mlp(model, [("mlp", 4, 17), ("mlp", 4, 3)], [4], structured=True):
        ...     tuple(model.blocks[4].mlp.W_out.shape)
        (2, 128)
    """
    require_none(model, "edit")
    kept = kept_by_layer(model, keep, layers)
    widths = {layer: dimensions.d_mlp(model, layer) for layer in layers}
    if not structured:
        others: list[MlpNeuron] = [
            ("mlp", layer, i) for layer in layers for i in sorted(set(range(widths[layer])) - set(kept[layer]))
        ]
        return edit(model, others)
    for layer in layers:
        dimensions.post_hook(model, layer)  # refuses mixtures of experts
    modules = {layer: _neuron_modules(model.blocks[layer].mlp, layer) for layer in layers}
    removal = Removal(model, [])
    for layer, (ins, out) in modules.items():
        rows = torch.tensor(kept[layer], device=model.blocks[layer].mlp.W_out.device)
        for module, outputs in (*((each, True) for each in ins), (out, False)):
            removal.modules.append(_shorten(module, rows, outputs=outputs))
    return removal


def kept_by_layer(model: Any, keep: Components, layers: Sequence[int]) -> dict[int, list[int]]:
    """Return which neurons of each layer are kept, in order.

    Raises:
        ValueError: As :func:`prune_mlp`.
        IndexError: If a neuron or layer is out of range or named twice.
    """
    for layer in layers:
        within("layers", layer, model.cfg.n_layers)
    if not layers or len(set(layers)) < len(layers):
        raise IndexError(f"layers must name at least one layer, each once, got {list(layers)}")
    named = {each for row in component_lists(model, keep) for each in row}
    if not named:
        raise ValueError("keep is empty: name the MLP neurons that stay")
    for each in (each for each in named if each[0] != "mlp"):
        raise ValueError(f"keep must hold MLP neurons, got {each}")
    kept = {layer: sorted(each[-1] for each in named if each[1] == layer) for layer in layers}
    if empty := [layer for layer, neurons in kept.items() if not neurons]:
        raise ValueError(f"keep has no neuron of layers {empty}: keep one there, or leave them out of layers")
    return kept


def _neuron_modules(mlp: Any, layer: int) -> tuple[list[Any], Any]:
    """Return the modules whose outputs are a layer's neurons, and the one whose inputs they are.

    Raises:
        ValueError: If the neurons are not separate in them.
    """
    names = [name for name in ("in", "gate") if getattr(mlp, name, None) is not None]
    ins = [getattr(mlp, name).original_component for name in names]
    if "Joint" in type(mlp).__name__ or not ins:
        raise ValueError(
            f"structured=True: layer {layer} keeps its gate and up matrices in one, from which no neuron can be "
            "removed; use structured=False"
        )
    return ins, mlp.out.original_component


def _shorten(module: Any, rows: Tensor, *, outputs: bool) -> Shortened:
    """Keep some outputs of a linear module, or some of its inputs."""
    conv = type(module).__name__ == "Conv1D"
    names = ("weight", "bias") if outputs and module.bias is not None else ("weight",)
    counted = ("nf" if conv else "out_features") if outputs else ("nx" if conv else "in_features")
    before = {name: getattr(module, name) for name in (*names, *((counted,) if hasattr(module, counted) else ()))}
    axis = {"weight": int(outputs == conv), "bias": 0}
    for name in names:
        old = before[name]
        setattr(module, name, torch.nn.Parameter(old.index_select(axis[name], rows), requires_grad=old.requires_grad))
    if counted in before:
        setattr(module, counted, len(rows))
    return Shortened(module, before)
