"""Zero, scale or keep heads and neurons: by hooks, or in the weights, always undone.

Where a scale is exact in floating point (0, 1, a power of two), hooks and weights give the same model bit for bit: a
neuron's activation times its row of ``W_out`` (or ``W_O``) is the product either way. A neuron of an expert has no hook
of its own: what it wrote is computed again and taken out of the layer's output, which agrees but for rounding.
"""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.active_edits import Change, require_none
from tl_neuron_attr.model.components import Component, Components, component_lists
from tl_neuron_attr.model.expert_hooks import Hook, expert_hooks, require_same_batch
from tl_neuron_attr.model.weights import block_weights, editable_weights
from tl_neuron_attr.model.within import within
from tl_neuron_attr.numerics.stacked_rows import StackedRows
from tl_neuron_attr.numerics.sublayer import Site

Where = tuple[Site, int]
"""A sublayer: its site and layer."""


@typechecked
def ablate(model: Any, components: Components, *, scale: float = 0.0) -> AbstractContextManager[Any]:
    """Return a context manager; while open, heads and neurons write ``scale`` times what they would.

    It works by hooks, which are gone afterwards, also after an exception; no weight changes. Neurons of a batch, and
    lists of components, are ablated each in its own prompt; the model must then be run on as many prompts. Many
    ablations of one prompt are one run:
    ``with ablate(model, [[(0, h)] for h in range(8)]): model(tokens.expand(8, -1))``.

    An attention neuron found by a search belongs to one source position. What is ablated is its column of ``W_O``, for
    all sources and at all positions, as in paper 1 (section 4.1, where neurons' parameters are set to zero): ``k``
    neurons of a search may be fewer columns.

    Args:
        model: The model.
        components: ``(layer, head)`` pairs, ``("mlp", layer, index)`` or ``("attn", layer, head, dimension)`` tuples,
            labels (``"L3H2"``, ``"L1N287"``, ``"L3E17N204"``, ``"L21H0D79"``), one list of them per prompt, or
            :class:`~tl_neuron_attr.Neurons`.
        scale: The factor; 0 removes them.

    Raises:
        TypeError: If an element is no component.
        IndexError: If a component is out of range or named twice.
        ValueError: If MLP neurons are named of a layer where they cannot be read, or the model is run on another number
            of prompts.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompt = "Tim Duncan plays the sport of"
        >>> p = model(prompt)[0, -1].softmax(-1)[model.to_single_token("basketball")]
        >>> with ablate(model, ["L2H3", ("mlp", 4, 17)]):
        ...     without = model(prompt)[0, -1].softmax(-1)[model.to_single_token("basketball")]
        >>> bool(without == p)
        False
    """
    return _hooked(model, ablation_hooks(model, components, scale=scale))


@typechecked
def ablation_hooks(model: Any, components: Components, *, scale: float = 0.0) -> list[Hook]:
    """Return the hooks of :func:`ablate`, to pass to ``run_with_hooks`` or ``model.hooks`` beside others.

    Arguments and errors as in :func:`ablate`.

    Returns:
        Pairs of a hook's name and its function, one per sublayer; several for a mixture of experts.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> hooks = ablation_hooks(model, [(2, 3), ("mlp", 4, 17)])
        >>> [name for name, _ in hooks]
        ['blocks.2.attn.hook_z', 'blocks.4.mlp.hook_post']
        >>> logits = model.run_with_hooks("3 + 5 =", fwd_hooks=hooks)
    """
    lists = component_lists(model, components)
    return _multipliers(model, _factors(model, lists, scale, {_sublayer_of(each) for named in lists for each in named}))


@typechecked
def keep(model: Any, components: Components, *, layers: Sequence[int]) -> AbstractContextManager[Any]:
    """Return a context manager; while open, only the named MLP neurons of some layers write (paper 3, Table 5, "keep").

    Args:
        model: The model.
        components: MLP neurons, as in :func:`ablate`; those outside ``layers`` write as always.
        layers: The layers whose other neurons are silenced.

    Raises:
        TypeError: If an element is no component.
        IndexError: If a component or layer is out of range or named twice.
        ValueError: If ``components`` names anything but MLP neurons, or there is no layer.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> with keep(model, [("mlp", 4, 17)], layers=[4]):
        ...     logits = model("3 + 5 =")
    """
    lists = component_lists(model, components)
    for each in (each for named in lists for each in named if each[0] != "mlp"):
        raise ValueError(f"components must be MLP neurons to be kept, got {each}")
    if not layers:
        raise ValueError("layers is empty: name the layers whose other neurons are silenced")
    for layer in layers:
        within("layers", layer, model.cfg.n_layers)
    inside = [[each for each in named if each[1] in layers] for named in lists]
    return _hooked(
        model, _multipliers(model, _factors(model, inside, 1.0, {("mlp", layer) for layer in layers}, others=0.0))
    )


@contextmanager
def _hooked(model: Any, hooks: list[Hook]) -> Generator[Any]:
    with model.hooks(fwd_hooks=hooks):
        yield model


@dataclass(frozen=True)
class ChangedRows:
    """Rows of one weight: their indices, their old values and their new ones."""

    live: Float[Tensor, "*width d_model"]
    at: tuple[Tensor, ...]
    before: Float[Tensor, "n d_model"]
    after: Float[Tensor, "n d_model"]


@dataclass
class Edit(Change):
    """Changed weights, undone by :meth:`undo` or at the end of a ``with`` block, inside which no other edit may begin.

    Attributes:
        rows: What was changed in the model; empty once undone.
    """

    rows: list[ChangedRows]

    @torch.no_grad()
    def undo(self) -> None:
        """Restore every row.

        Raises:
            RuntimeError: If something else has changed a row since; nothing is then restored.
        """
        if any(not torch.equal(rows.live[rows.at], rows.after) for rows in self.rows):
            raise RuntimeError("an edited row was changed again since: undo later edits first, the last one first")
        for rows in self.rows:
            rows.live[rows.at] = rows.before
        self.rows.clear()


@typechecked
@torch.no_grad()
def edit(model: Any, components: Components, *, scale: float = 0.0) -> Edit:
    """Multiply the rows of ``W_out`` and ``W_O`` that heads and neurons write with: a change of the model itself.

    Arguments as in :func:`ablate`, whose lasting counterpart it is.

    Returns:
        An :class:`Edit`, to undo it; a context manager too.

    Raises:
        TypeError: If an element is no component.
        IndexError: If a component is out of range or named twice.
        ValueError: If the neurons are of several prompts, which share the weights, or the model is inside the ``with``
            block of another edit.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> change = edit(model, [("mlp", 4, 17)])
        >>> float(model.blocks[4].mlp.W_out[17].abs().max())
        0.0
        >>> change.undo()
    """
    require_none(model, "edit")
    lists = component_lists(model, components)
    if len(lists) > 1:
        raise ValueError(
            f"components are neurons of {len(lists)} prompts, which share the weights: edit(model, neurons[0])"
        )
    changed: list[ChangedRows] = []
    for where, factor in _factors(model, lists, scale, {_sublayer_of(each) for each in lists[0]}).items():
        for live, own in _writers(model, where, factor[0]):
            at = (own != 1).nonzero(as_tuple=True)
            before = live[at]
            live[at] = before * own[at][:, None]
            changed.append(ChangedRows(live, at, before, live[at]))
    return Edit(model, changed)


def multiplier(factor: Float[Tensor, "row *width"]) -> Callable[..., Tensor]:
    """Return a hook that multiplies activations at every position; one row for all prompts, or one per prompt."""

    def multiply(activation: Tensor, hook: Any) -> Tensor:
        require_same_batch(factor, activation)
        own = factor.reshape(len(factor), 1, *activation.shape[2:])  # latent attention's hook_z may have other heads
        return activation * own.to(activation.device)

    return multiply


def _sublayer_of(component: Component) -> Where:
    """Return the sublayer that a component belongs to."""
    if len(component) == 2:
        return "attn", component[0]
    return component[0], component[1]


def _writers(model: Any, where: Where, factor: Float[Tensor, "*width"]) -> list[tuple[Tensor, Tensor]]:
    """Return the live weights a sublayer's neurons write with, and the factors of their rows; one per expert."""
    site, layer = where
    own = editable_weights(model, layer)
    weights = own.directions("mlp") if site == "mlp" else own.W_O
    if not isinstance(weights, StackedRows):
        return [(weights.detach(), factor.to(weights.device))]
    sizes = [len(block) for block in weights.blocks]
    pairs = zip(weights.blocks, factor.to(weights.device).split(sizes), strict=True)
    return [(block.detach(), own) for block, own in pairs if bool((own != 1).any())]


def _factors(
    model: Any, lists: list[list[Component]], scale: float, wheres: set[Where], *, others: float = 1.0
) -> dict[Where, Float[Tensor, "row *width"]]:
    """Return, for each sublayer, the factor of each neuron: ``scale`` for those named, ``others`` for the rest."""
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}")
    factors: dict[Where, Tensor] = {}
    dtype, device = dimensions.dtype_of(model), dimensions.device_of(model)
    if abs(scale) > torch.finfo(dtype).max:
        raise ValueError(f"scale must lie within {dtype}, the model's dtype, got {scale}")
    for site, layer in sorted(wheres):
        width = dimensions.width(model, site, layer)
        shape = (len(lists), *((width,) if isinstance(width, int) else width))
        factors[site, layer] = torch.full(shape, others, dtype=dtype, device=device)
    for i, named in enumerate(lists):
        for each in named:
            factors[_sublayer_of(each)][(i, *(each[1:] if len(each) == 2 else each[2:]))] = scale
    return factors


def _multipliers(model: Any, factors: Mapping[Where, Float[Tensor, "row *width"]]) -> list[Hook]:
    hooks: list[Hook] = []
    for (site, layer), factor in factors.items():
        experts = block_weights(model, layer).live_experts if site == "mlp" else None
        if experts is None:
            hooks.append((f"blocks.{layer}.{'mlp.hook_post' if site == 'mlp' else 'attn.hook_z'}", multiplier(factor)))
        else:
            hooks += [(f"blocks.{layer}.{name}", hook) for name, hook in expert_hooks(experts, factor)]
    return hooks
