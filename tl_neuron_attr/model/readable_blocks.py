"""A block whose weights are numbers, in memory and on one device, wherever the model keeps them.

Weights may lie on another device, offloaded to CPU or disk by accelerate, or quantised. A copy of the block is made
that shares everything but the weights; those are read one block at a time, so that memory is one block's. What reads
weights sees the copy, and numerics see one device.
"""

from collections.abc import Callable
from functools import reduce
from types import SimpleNamespace
from typing import Any

import torch
from accelerate.utils import align_module_device, has_offloaded_params
from torch import Tensor, nn
from transformer_lens.utilities.quantization import unreadable_weight_reason

_DEQUANTISERS: dict[str, Callable[[Tensor], Tensor]] = {
    "dequantize": lambda weight: weight,  # HQQ
    "dequantize_weight": lambda weight: weight.T,  # GPTQ and AWQ, which multiply from the other side
}
"""What libraries call the method of a linear module that gives its weight, and how to make that (out, in)."""

_BITSANDBYTES = ("Params4bit", "Int8Params")
"""The classes of bitsandbytes' weights; by name, as transformers knows them, since the library may be absent."""


def is_at_hand(block: nn.Module, device: torch.device) -> bool:
    """Return whether every weight of a block is a number, in memory and on the device of scores."""
    if device.type == "meta":
        return False
    for module in block.modules():  # asked at every use of a weight, of many modules, most of them hook points
        own = vars(module)
        if "in_features" in own and _dequantiser(module):
            return False
        for weight in own["_parameters"].values():
            if weight is not None and not (weight.device == device and _is_plain(weight)):
                return False
    return True


def outline(block: nn.Module) -> Any:
    """Return a copy of a block that has the shapes of its weights and NaN in place of their values; takes no memory."""

    def shapes(module: nn.Module) -> dict[str, Tensor]:
        blank = torch.tensor(torch.nan)
        found = {name: blank.expand(weight.shape) for name, weight in _own(module).items()}
        if _is_quantised(module) and hasattr(module, "in_features"):
            found["weight"] = blank.expand(_shape(module))
        return found

    return _copy(block, shapes)


def fetched(block: nn.Module, device: torch.device) -> Any:
    """Return a copy of a block whose weights are numbers on a device: loaded, moved or dequantised.

    Raises:
        ValueError: If a weight cannot be read; see :func:`unreadable`.
    """
    if (found := unreadable(block)) is not None:
        raise ValueError(found)
    return _copy(block, lambda module: _weights(module, device))


def rounds_activations(block: nn.Module) -> bool:
    """Return whether a block's weights make it round what they are multiplied with: those of bitsandbytes in 8 bit."""
    return any(type(weight).__name__ == _BITSANDBYTES[1] for weight in block.parameters())


def unreadable(block: nn.Module) -> str | None:
    """Return which weight of a block nothing here can read, and what to do; None if all can be read.

    Nothing is loaded for it.
    """
    for name, module in block.named_modules():
        for own, weight in _own(module).items():
            where = ".".join(part for part in (name, own) if part).replace("_original_component.", "")
            if weight.is_meta and not has_offloaded_params(module):
                return (
                    f"{where} is offloaded to CPU or disk, and nothing says where: boot the model with a device_map "
                    "of accelerate, or with its weights in memory"
                )
            if not weight.is_meta and not _is_plain(weight) and not _dequantiser(module) and not _reads(weight):
                return (
                    f"{where} is quantised ({weight.dtype}) and has no dequantiser, so its numbers are not those the "
                    "model computes with: boot the model dequantised (a GGUF file through tna.load, or "
                    "dtype=torch.bfloat16)"
                )
    return None


def _weights(module: nn.Module, device: torch.device) -> dict[str, Tensor]:
    """Return a module's own weights as numbers on a device."""
    with align_module_device(module):  # loads what accelerate offloaded, and forgets it again
        found = {name: _numbers(module, weight) for name, weight in _own(module).items()}
        if method := _dequantiser(module):
            packed = {name for name, weight in found.items() if not _is_plain(weight)}
            found = {name: weight for name, weight in found.items() if name not in packed}
            found["weight"] = _DEQUANTISERS[method](getattr(module, method)())
        return {name: weight.detach().to(device) for name, weight in found.items()}


def _numbers(module: nn.Module, weight: Tensor) -> Tensor:
    """Return a weight dequantised, if its class says how; else as it is."""
    if type(weight).__name__ in _BITSANDBYTES:
        from transformers.integrations.bitsandbytes import dequantize_bnb_weight

        state = getattr(module, "state", None)  # 8 bit: its first run moves the scales from the weight to the module
        scales = SimpleNamespace(SCB=getattr(state, "SCB", None))
        return dequantize_bnb_weight(weight, scales)  # pyright: ignore[reportArgumentType]
    return weight.dequantize() if _reads(weight) else weight


def _reads(weight: Tensor) -> bool:
    """Return whether a weight's class says what numbers it stands for (bitsandbytes, quanto, torchao)."""
    return type(weight).__name__ in _BITSANDBYTES or type(weight).dequantize is not Tensor.dequantize


def _is_plain(weight: Tensor) -> bool:
    """Return whether a weight is stored as numbers; a vector of integers is no weight of a matrix."""
    return not _reads(weight) and (weight.ndim < 2 or weight.is_meta or unreadable_weight_reason(weight) is None)


def _is_quantised(module: nn.Module) -> bool:
    return _dequantiser(module) is not None or not all(map(_is_plain, _own(module).values()))


def _dequantiser(module: nn.Module) -> str | None:
    """Return the name of a linear module's method that gives its weight, where its class has one."""
    if "in_features" not in vars(module):  # not linear
        return None
    return next((name for name in _DEQUANTISERS if callable(getattr(type(module), name, None))), None)


def _shape(linear: Any) -> tuple[int, int]:
    return linear.out_features, linear.in_features


def _own(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's own parameters, those of its children left out."""
    return {name: value for name, value in vars(module)["_parameters"].items() if value is not None}


def _copy(block: nn.Module, weights: Callable[[nn.Module], dict[str, Tensor]]) -> Any:
    """Return a block of the same modules, with other weights: only they differ, and hooks of accelerate are gone."""
    originals = list(block.modules())
    copies: dict[int, Any] = {id(module): object.__new__(type(module)) for module in originals}
    for module in originals:
        own = {name: _exchanged(value, copies) for name, value in vars(module).items()}
        if own.pop("_hf_hook", None) is not None:  # it would move what the copy computes to the module's device
            own.pop("forward", None)
            own.pop("_old_forward", None)
        replaced = weights(module)
        own["_parameters"] = {name: replaced.get(name) for name in {**own["_parameters"], **replaced}}
        vars(copies[id(module)]).update({name: value for name, value in own.items() if name not in replaced})
    for copied in copies.values():  # a bridge keeps biases and a norm's weight under second names, as they once were
        own = vars(copied)
        for alias, path in own.get("_property_alias_registry", {}).items():
            if alias in own:
                own[alias] = reduce(_attribute, path.split("."), copied)
    return copies[id(block)]


def _attribute(module: Any, name: str) -> Any:
    return getattr(module, name, None)


def _exchanged(value: Any, copies: dict[int, Any]) -> Any:
    """Return an attribute with copies in place of modules, also inside a dict or tuple (a bridge's components)."""
    if isinstance(value, nn.Module):
        return copies.get(id(value), value)
    if type(value) is dict:
        return {key: _exchanged(each, copies) for key, each in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if type(value) in (list, tuple):
        return type(value)(_exchanged(each, copies) for each in value)  # pyright: ignore[reportUnknownVariableType]
    return value
