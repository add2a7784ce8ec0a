"""Checks of what a module is given: an error names the argument, its value or shape, and the fix."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from tl_neuron_attr.srnn.cells import Recurrence
from tl_neuron_attr.srnn.level import Initial


def require_batch(x: Tensor, input_size: int, *, batch_first: bool) -> None:
    """Check that ``x`` is a batch of sequences of ``input_size`` features.

    Raises:
        ValueError: If ``x`` has another number of dimensions or features, no sequence, or no step.
    """
    layout = "[batch, step, feature]" if batch_first else "[step, batch, feature]"
    shape = list(x.shape)
    if x.ndim != 3:
        hint = ": for one sequence give x[None]" if x.ndim == 2 and batch_first else ""
        raise ValueError(f"x must be {layout}, got shape {shape}{hint}")
    if x.shape[2] != input_size:
        raise ValueError(f"x must have input_size={input_size} features in its last dimension, got shape {shape}")
    if 0 in x.shape:
        raise ValueError(f"x must hold at least one sequence of at least one step, {layout}, got shape {shape}")


def require_place(x: Tensor, weight: Tensor, h_0: Initial | None) -> None:
    """Check that the input and the state have the device of the weights and, except under autocast, their dtype.

    Raises:
        ValueError: If the devices or dtypes differ.
    """
    states = h_0 if isinstance(h_0, tuple) else (h_0,)
    for name, tensor in [("x", x), *(("h_0", h) for h in states if h is not None)]:
        if tensor.device != weight.device:
            raise ValueError(f"{name} is on {tensor.device}, the weights are on {weight.device}: move one with .to()")
        if tensor.dtype != weight.dtype and not torch.is_autocast_enabled(weight.device.type):
            raise ValueError(f"{name} is {tensor.dtype}, the weights are {weight.dtype}: convert one with .to()")


def require_state(h_0: Initial, shape: Sequence[int], cell: type) -> None:
    """Check that ``h_0`` is a start that the cell of the top level takes.

    Raises:
        TypeError: If it is a tensor for an LSTM, or a pair for another cell.
        ValueError: If a tensor of ``h_0`` has another shape.
    """
    if issubclass(cell, nn.LSTM) and not isinstance(h_0, tuple):
        raise TypeError("h_0 must be a pair (h, c) for an LSTM, got a tensor")
    if issubclass(cell, nn.GRU | nn.RNN | Recurrence) and isinstance(h_0, tuple):
        raise TypeError(f"h_0 must be a tensor for {cell.__name__}, got a tuple")
    for h in h_0 if isinstance(h_0, tuple) else (h_0,):
        if list(h.shape) != list(shape):
            raise ValueError(f"h_0 starts the top level: it must be {list(shape)}, got shape {list(h.shape)}")


def require_lengths(lengths: Tensor, batch: int, T: int) -> None:
    """Check that ``lengths`` are those of ``batch`` sequences of 1 to ``T`` steps.

    Raises:
        TypeError: If ``lengths`` does not hold integers.
        ValueError: If the shape is wrong, or a length is zero or more than ``T``.
    """
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        raise TypeError(f"lengths must hold integers, got {lengths.dtype}")
    if list(lengths.shape) != [batch]:
        raise ValueError(f"lengths must be one for each of the {batch} sequences, got shape {list(lengths.shape)}")
    if torch.compiler.is_compiling():
        return
    least, most = int(lengths.min()), int(lengths.max())
    if least < 1 or most > T:
        raise ValueError(f"lengths must be between 1 and the {T} steps of x, got {least if least < 1 else most}")


def require_divisible(name: str, T: int, factors: Sequence[int], fix: str = "") -> None:
    """Check that the factors cut ``T`` steps evenly.

    Raises:
        ValueError: If ``T`` is not a multiple of their product.
    """
    slices = prod(factors)
    if T % slices:
        fix = fix or f"the next is {T + -T % slices}"
        raise ValueError(f"{name} must be a multiple of {slices} (n={list(factors)}), got {T}: {fix}")
