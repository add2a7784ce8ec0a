"""Zero, scale or keep heads and neurons: by hooks, or in the weights, always undone.

Where a scale is exact in floating point (0, 1, a power of two), hooks and weights give the same model bit for bit: a
neuron's activation times its row of ``W_out`` (or ``W_O``) is the product either way.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.model.active_edits import Change, require_none
from tl_neuron_attr.model.components import Part, Parts, rows_of, within
from tl_neuron_attr.numerics.sublayer import Site

Where = tuple[Site, int]
"""A sublayer: its site and layer."""

Hook = tuple[str, Callable[..., Tensor]]
"""A hook point's name and what is to happen there, as ``run_with_hooks`` takes them."""


@contextmanager
def ablate(model: Any, parts: Parts, *, scale: float = 0.0) -> Generator[Any]:
    """While open, heads and neurons write ``scale`` times what they would.

    Works by hooks, which are gone afterwards, also after an exception; no weight changes. Neurons of a batch, and lists
    of parts, are ablated each in its own prompt; the model must then be run on as many prompts. Many ablations of one
    prompt are one run: ``with ablate(model, [[(0, h)] for h in range(8)]): model(tokens.expand(8, -1))``.

    An attention neuron found by a search belongs to one source position. What is ablated is its column of ``W_O``, for
    all sources and at all positions, as in paper 1 (section 4.1, where neurons' parameters are set to zero): ``k``
    neurons of a search may be fewer columns.

    Args:
        model: The model.
        parts: ``(layer, head)`` pairs, ``("mlp", layer, index)`` or ``("attn", layer, head, dimension)`` tuples, a list
            of them a prompt, or :class:`~tl_neuron_attr.Neurons`.
        scale: The factor; 0 removes them.

    Yields:
        The model.

    Raises:
        IndexError: If a part is out of range or named twice.
        ValueError: If MLP neurons of a mixture of experts are named, or the model is run on another number of prompts.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompt = "Tim Duncan plays the sport of"
        >>> with ablate(model, [(2, 3), ("mlp", 4, 17)]):
        ...     without = model(prompt)
        >>> bool((without == model(prompt)).all())
        False
    """
    with model.hooks(fwd_hooks=ablation_hooks(model, parts, scale=scale)):
        yield model


def ablation_hooks(model: Any, parts: Parts, *, scale: float = 0.0) -> list[Hook]:
    """The hooks of :func:`ablate`, to go with others into ``run_with_hooks`` or ``model.hooks``.

    Arguments and errors as in :func:`ablate`.

    Returns:
        Pairs of a hook's name and its function, one a sublayer.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> hooks = ablation_hooks(model, [(2, 3), ("mlp", 4, 17)])
        >>> [name for name, _ in hooks]
        ['blocks.2.attn.hook_z', 'blocks.4.mlp.hook_post']
        >>> logits = model.run_with_hooks("3 + 5 =", fwd_hooks=hooks)
    """
    rows = rows_of(model, parts)
    return _multipliers(_factors(model, rows, scale, {_touched(part) for row in rows for part in row}))


@contextmanager
def keep(model: Any, parts: Parts, *, layers: Sequence[int]) -> Generator[Any]:
    """While open, only the named MLP neurons of some layers write (paper 3, Table 5, "keep").

    Args:
        model: The model.
        parts: MLP neurons, as in :func:`ablate`; those outside ``layers`` are ignored.
        layers: The layers whose other neurons are silenced.

    Raises:
        IndexError: If a part or layer is out of range or named twice.
        ValueError: If ``parts`` names anything but MLP neurons.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> with keep(model, [("mlp", 4, 17)], layers=[4]):
        ...     logits = model("3 + 5 =")
    """
    rows = rows_of(model, parts)
    for part in (part for row in rows for part in row if part[0] != "mlp"):
        raise ValueError(f"parts must be MLP neurons to be kept, got {part}")
    for layer in layers:
        within("layers", layer, model.cfg.n_layers)
    inside = [[part for part in row if part[1] in layers] for row in rows]
    hooks = _multipliers(_factors(model, inside, 1.0, {("mlp", layer) for layer in layers}, others=0.0))
    with model.hooks(fwd_hooks=hooks):
        yield model


@dataclass(frozen=True)
class ChangedRows:
    """Rows of one weight: where they are, what they were, what they were changed to."""

    live: Float[Tensor, "*width d_model"]
    at: tuple[Tensor, ...]
    before: Float[Tensor, "n d_model"]
    after: Float[Tensor, "n d_model"]


@dataclass
class Edit(Change):
    """Changed weights. Ends with :meth:`undo`, or as a context manager, in which no other edit may begin.

    Attributes:
        rows: What was changed in the model; empty once undone.
    """

    rows: list[ChangedRows]

    @torch.no_grad()
    def undo(self) -> None:
        """Put every row back as it was.

        Raises:
            RuntimeError: If a row has been changed by something else since; nothing is then put back.
        """
        if any(not torch.equal(rows.live[rows.at], rows.after) for rows in self.rows):
            raise RuntimeError("an edited row was changed again since: undo later edits first, the last one first")
        for rows in self.rows:
            rows.live[rows.at] = rows.before
        self.rows.clear()


@typechecked
@torch.no_grad()
def edit(model: Any, parts: Parts, *, scale: float = 0.0) -> Edit:
    """Multiply the rows of ``W_out`` and ``W_O`` that heads and neurons write with: a change of the model itself.

    Arguments as in :func:`ablate`, of which it is the lasting counterpart.

    Returns:
        An :class:`Edit`, to undo it; a context manager too.

    Raises:
        IndexError: If a part is out of range or named twice.
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
    rows = rows_of(model, parts)
    if len(rows) > 1:
        raise ValueError(f"parts are neurons of {len(rows)} prompts, which share the weights: edit(model, neurons[0])")
    changed: list[ChangedRows] = []
    for where, factor in _factors(model, rows, scale, {_touched(part) for part in rows[0]}).items():
        live = _writer(model, where).detach()
        at = (factor[0] != 1).nonzero(as_tuple=True)
        before = live[at]
        live[at] = before * factor[0][at][:, None]
        changed.append(ChangedRows(live, at, before, live[at]))
    return Edit(model, changed)


def multiplier(factor: Float[Tensor, "row *width"]) -> Callable[..., Tensor]:
    """A hook that multiplies activations, alike at every position; one row for all prompts, or one a prompt."""

    def multiply(activation: Tensor, hook: Any) -> Tensor:
        if len(factor) not in (1, len(activation)):
            raise ValueError(
                f"the neurons are of {len(factor)} prompts, but the model is run on {len(activation)}: run it on the "
                "same batch, or take one prompt's neurons"
            )
        return activation * factor[:, None]

    return multiply


def _touched(part: Part) -> Where:
    """The sublayer a part writes for."""
    if len(part) == 2:
        return "attn", part[0]
    return part[0], part[1]


def _writer(model: Any, where: Where) -> Float[Tensor, "*width d_model"]:
    """The live weight whose rows a sublayer's neurons write with."""
    site, layer = where
    return model.blocks[layer].mlp.W_out if site == "mlp" else model.blocks[layer].attn.W_O


def _factors(
    model: Any, rows: list[list[Part]], scale: float, wheres: set[Where], *, others: float = 1.0
) -> dict[Where, Float[Tensor, "row *width"]]:
    """By sublayer, what its neurons are multiplied with: ``scale`` for the parts, ``others`` for the rest."""
    factors: dict[Where, Tensor] = {}
    for where in sorted(wheres):
        like = _writer(model, where)
        shape = (len(rows), *like.shape[:-1])
        factors[where] = torch.full(shape, others, dtype=like.dtype, device=like.device)
    for i, row in enumerate(rows):
        for part in row:
            factors[_touched(part)][(i, *(part[1:] if len(part) == 2 else part[2:]))] = scale
    return factors


def _multipliers(factors: Mapping[Where, Float[Tensor, "row *width"]]) -> list[Hook]:
    hook_of = {"mlp": "mlp.hook_post", "attn": "attn.hook_z"}
    return [(f"blocks.{layer}.{hook_of[site]}", multiplier(factor)) for (site, layer), factor in factors.items()]
