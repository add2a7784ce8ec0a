"""Devices that this machine lacks: tensors are tagged with them, and where two tags meet, that is an error."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

CPU = torch.device("cpu")
_INDEXING = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)


def tag(tensor: torch.Tensor) -> torch.device:
    """Return the device that a tensor claims to lie on, outside the mode."""
    return getattr(tensor, "pretended", CPU)


class PretendDevices(TorchFunctionMode):
    """Gives tensors devices, and fails where two of them meet, as torch would.

    Moving a tensor copies it and changes its device here. As in torch, a number on the CPU meets every tensor, a tensor
    may be indexed by one on the CPU, and ``copy_`` reads from another device.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == torch.Tensor.device.__get__:  # a new wrapper each time
            return tag(args[0])
        if func in (torch.Tensor.numpy, torch.Tensor.__array__):
            assert tag(args[0]) == CPU, "numpy of a tensor that is on no CPU"
        given = kwargs.pop("device", None)
        if func is torch.Tensor.to:
            args, kwargs, given = _moved(args, kwargs, given)
        elif func is torch.Tensor.cpu:
            func, args, given = torch.clone, args[:1], CPU
        if func is torch.autograd.grad:
            return _graded(args, kwargs)
        devices = _meeting(func, args, kwargs)
        assert len(set(devices)) <= 1, f"{func.__name__} of tensors on {sorted(map(str, set(devices)))}"
        result = func(*args, **kwargs)
        place = torch.device(given) if given is not None else next(iter(devices), CPU)
        for each in _tensors(result):
            each.pretended = place
        return result


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _graded(args: Any, kwargs: Any) -> Any:
    """Return gradients, each on the device of what it is the gradient in: backward passes move between devices."""
    found = torch.autograd.grad(*args, **kwargs)
    for each, of in zip(found, args[1], strict=True):
        each.pretended = tag(of)
    return found


def _meeting(func: Any, args: Any, kwargs: Any) -> list[torch.device]:
    """Return the devices of what meets in a call; the first is that of its result."""
    tensors = list(_tensors((args, kwargs)))
    devices = [tag(each) for each in tensors if each.ndim or tag(each) != CPU]
    if func in _INDEXING:
        return [tag(tensors[0]), *(tag(each) for each in tensors[1:] if tag(each) != CPU)]
    return devices[:1] if func in (torch.Tensor.copy_, torch.Tensor.to) else devices


def _moved(args: Any, kwargs: dict[str, Any], given: Any) -> tuple[Any, dict[str, Any], Any]:
    """Return the arguments of ``Tensor.to`` without its device, and the device; the tensor is copied if it moves."""
    tensor, *rest = args
    dtype = kwargs.pop("dtype", None)
    for each in rest:
        if isinstance(each, torch.Tensor):
            given, dtype = tag(each), each.dtype
        elif isinstance(each, torch.dtype):
            dtype = each
        elif each is not None:
            given = torch.device(each)
    moves = given is not None and torch.device(given) != tag(tensor)
    return (tensor.clone() if moves else tensor, dtype or tensor.dtype), kwargs, given if moves else tag(tensor)


def spread(model: Any, devices: list[torch.device]) -> None:
    """Put each block on a device of its own, embedding and unembedding with the first and last, as accelerate does.

    What reaches a module is moved to its device first.
    """
    inside = {id(each): device for block, device in zip(model.blocks, devices, strict=True) for each in _own(block)}
    last = {id(each) for module in (model.ln_final, model.unembed) for each in _own(module)}
    for module in model.modules():
        for each in _own(module, recurse=False):
            each.pretended = inside.get(id(each), devices[-1 if id(each) in last else 0])
            if id(each) not in inside:
                module.register_forward_pre_hook(_mover(tag(each)), with_kwargs=True)
    for block, device in zip(model.blocks, devices, strict=True):
        block.register_forward_pre_hook(_mover(device), with_kwargs=True)


def _own(module: nn.Module, *, recurse: bool = True) -> list[torch.Tensor]:
    return [*module.parameters(recurse), *module.buffers(recurse)]


def _mover(device: torch.device) -> Any:
    def move(module: Any, args: Any, kwargs: Any) -> Any:
        return tree_map_only(torch.Tensor, lambda each: each.to(device), (args, kwargs))

    return move
