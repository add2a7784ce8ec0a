"""Mixtures of experts: each expert is an MLP whose output the router weighs, so its neurons are neurons.

Neuron ``i`` of expert ``e`` writes ``w[e] * act(x)[e, i]`` times row ``i`` of that expert's down projection, with
``w`` the router's weights: zero for an expert that was not routed to. A shared expert, which every token passes, is
numbered behind the routed ones, its coefficients times its sigmoid gate where it has one.

transformers keeps the experts of a layer as one module with three-dimensional parameters, whose layout its decorator
``use_experts_implementation`` writes into attributes. They are read here, whatever the model is called. Llama 4 does
without the decorator, and multiplies what an expert reads, instead of what it computes, with the router's weight.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tl_neuron_attr.model.expert_routing import routed_again
from tl_neuron_attr.numerics.stacked_rows import StackedRows


class Experts:
    """The experts of one layer; weights are looked up in the modules at each use.

    Args:
        mixture: The module of transformers that holds router and experts.
        router: The name of the router's module in the layer's MLP; empty where no hook says what it chose.
        names: The names of the experts, the shared expert and its gate in the mixture; None where there is none.

    Attributes:
        router: The name of the router's module, as above.
        count: The number of routed experts.
        width: The number of neurons of each.
    """

    def __init__(self, mixture: Any, router: str, names: tuple[str, str | None, str | None]) -> None:
        self.router, self._mixture, self._names = router, mixture, names
        modules: list[Any] = [None if name is None else _own(getattr(mixture, name)) for name in names]
        own, self._shared, self._shared_gate = modules
        self._weighs_input = not _is_described(own)
        self._routed: Any = _as_llama4(own) if self._weighs_input else own
        self.count = len(self._routed.down_proj)
        self.width = int(self._routed.down_proj.shape[1 if self._routed.is_transposed else 2])

    @property
    def gated(self) -> bool:
        """Whether neurons have a gate beside their input projection."""
        return bool(self._routed.has_gate)

    @property
    def hooks(self) -> tuple[str, ...]:
        """What a cache must hold for coefficients: what the MLP read, and what its router returned if hooks have it."""
        returned = ("hook_out", "hook_expert_weights", "hook_expert_indices") if self.router else ()
        return ("mlp.hook_in", *(f"mlp.{self.router}.{hook}" for hook in returned))

    @property
    def starts(self) -> tuple[int, ...]:
        """The number of each expert's first neuron; that of the shared expert is the last."""
        return tuple(e * self.width for e in range(self.count + (self._shared is not None)))

    @property
    def neurons(self) -> int:
        """The number of neurons of all experts."""
        return self.count * self.width + (0 if self._shared is None else _weight(self._shared.down_proj).shape[1])

    def directions(self) -> StackedRows:
        """Return the rows of every expert's down projection, as views."""
        shared = [] if self._shared is None else [_weight(self._shared.down_proj).T]
        return StackedRows([*(self._down(e) for e in range(self.count)), *shared])

    def writer(self, expert: int) -> Float[Tensor, "n d_model"]:
        """Return the live weight whose rows an expert's neurons write with."""
        return self._down(expert) if expert < self.count else _weight(self._shared.down_proj).T

    def routing(
        self, read: Float[Tensor, "batch pos d_model"], returned: Sequence[Tensor], dtype: torch.dtype
    ) -> Float[Tensor, "batch pos expert"]:
        """Return the router's weight of every expert, zero where it was not routed to.

        Args:
            read: What the MLP read, as the model computed it.
            returned: What the router's hooks cached, in any order: TransformerLens confuses the order of Granite's.
                Empty where there are none: the router is then run again.
            dtype: The dtype of scores.

        Raises:
            ValueError: If these are no weights and indices of a top-k router.
        """
        experts, shared, _ = self._names
        if not self.router:
            again = routed_again(self._mixture, experts, shared, read)
            return again.to(dtype).unflatten(0, read.shape[:2])
        flat = [each.reshape(read.shape[0] * read.shape[1], -1) for each in returned]
        indices = next((each for each in flat if not each.is_floating_point()), None)
        weights = flat[1].to(dtype)
        if indices is None or not returned[1].is_floating_point():
            raise ValueError(f"router {self.router!r} returned no indices of experts: this mixture is not supported")
        if weights.shape == indices.shape:  # TransformerLens spreads them over all experts where it knows the order
            dense = weights.new_zeros(len(weights), self.count)
            weights = dense.scatter_(1, indices.long(), weights)
        if weights.shape[1] != self.count:
            raise ValueError(f"router {self.router!r} weighs {weights.shape[1]} experts, the layer has {self.count}")
        return weights.unflatten(0, read.shape[:2])

    def router_weight(self) -> tuple[Float[Tensor, "expert d_model"], Float[Tensor, "expert"] | None] | None:
        """Return what the router multiplies the stream with, and its bias; None if it is not one linear map."""
        inside = tuple(f"{name}." for name in self._names if name is not None)
        own = {name: weight for name, weight in self._mixture.named_parameters() if not name.startswith(inside)}
        shape = self.count, self.directions().shape[1]
        found = [name for name, weight in own.items() if weight.shape == shape]
        return (own[found[0]], own.get(found[0].removesuffix("weight") + "bias")) if len(found) == 1 else None

    def coefficients(
        self, read: Float[Tensor, "place d_model"], routing: Float[Tensor, "place expert"]
    ) -> Float[Tensor, "place neuron"]:
        """Return the coefficient of every neuron: the router's weight times the activation."""
        found = read.new_zeros(len(read), self.neurons)
        for expert, start in enumerate(self.starts):
            rows, own = self._of_expert(expert, read, routing)
            found[rows, start : start + own.shape[1]] = own
        return found

    def written(
        self,
        read: Float[Tensor, "place d_model"],
        routing: Float[Tensor, "place expert"],
        factor: Float[Tensor, "row neuron"],
        row: Int[Tensor, "place"],
    ) -> Float[Tensor, "place d_model"]:
        """Return what the neurons write together, each times its factor in the ``row`` of the place."""
        found = torch.zeros_like(read)
        for expert, start in enumerate(self.starts):
            down = self.writer(expert)
            inner = (factor[:, start : start + len(down)] != 0).any(0).nonzero()[:, 0]
            if len(inner):
                places, own = self._of_expert(expert, read, routing)
                weighed = own[:, inner] * factor[:, start + inner][row[places]]
                found[places] += weighed @ down[inner].to(read.dtype)
        return found

    def bias(
        self, read: Float[Tensor, "place d_model"], routing: Float[Tensor, "place expert"]
    ) -> Float[Tensor, "place d_model"]:
        """Return what the experts add whatever their neurons do: their biases, weighed as they are."""
        found = torch.zeros_like(read)
        if self._routed.has_bias:
            found = found + routing @ self._routed.down_proj_bias.to(read.dtype)
        own = None if self._shared is None else _bias(self._shared.down_proj)
        return found if own is None else found + self._shared_weight(read) * own.to(read.dtype)

    def keys(self, which: str, index: Int[Tensor, "n"]) -> tuple[Float[Tensor, "n d_model"], Float[Tensor, "n"] | None]:
        """Return the subkeys of neurons and their biases: those of the gate or of the input (``"in"``)."""
        rows = torch.empty(len(index), self.directions().shape[1], dtype=self._into.dtype, device=self._into.device)
        biases = rows.new_zeros(len(index))
        routed = index < self.count * self.width
        e, i = index[routed] // self.width, index[routed] % self.width
        if self.gated:
            step, offset = (1, self.width) if self._routed.is_concatenated else (2, 1)
            i = i * step + (offset if which == "in" else 0)
        rows[routed] = self._into[e, :, i] if self._routed.is_transposed else self._into[e, i]
        if self._routed.has_bias:
            biases[routed] = self._into_bias[e, i]
        if not bool(routed.all()):
            projection = self._shared.gate_proj if which == "gate" else self._shared.up_proj
            inner, own = index[~routed] - self.count * self.width, _bias(projection)
            rows[~routed] = _weight(projection)[inner]
            biases[~routed] = biases[~routed] if own is None else own[inner]
        return rows, biases

    @property
    def _into(self) -> Tensor:
        return self._routed.gate_up_proj if self.gated else self._routed.up_proj

    @property
    def _into_bias(self) -> Tensor:
        return self._routed.gate_up_proj_bias if self.gated else self._routed.up_proj_bias

    def _down(self, expert: int) -> Float[Tensor, "n d_model"]:
        own = self._routed.down_proj[expert]
        return own if self._routed.is_transposed else own.T

    def _of_expert(
        self, expert: int, read: Float[Tensor, "place d_model"], routing: Float[Tensor, "place expert"]
    ) -> tuple[Int[Tensor, "n"], Float[Tensor, "n width"]]:
        """Return the places that an expert saw, and the coefficients of its neurons there."""
        if expert == self.count:
            everywhere = torch.arange(len(read), device=read.device)
            return everywhere, self._shared_activations(read) * self._shared_weight(read)
        rows = (routing[:, expert] != 0).nonzero()[:, 0]
        weight = routing[rows, expert, None]
        if self._weighs_input:
            return rows, self._activations(expert, read[rows] * weight)
        return rows, self._activations(expert, read[rows]) * weight

    def _activations(self, expert: int, read: Float[Tensor, "n d_model"]) -> Float[Tensor, "n width"]:
        own = self._into[expert].to(read.dtype)
        before = read @ (own if self._routed.is_transposed else own.T)
        if self._routed.has_bias:
            before = before + self._into_bias[expert].to(read.dtype)
        return self._routed._apply_gate(before) if self.gated else self._routed.act_fn(before)

    def _shared_activations(self, read: Float[Tensor, "n d_model"]) -> Float[Tensor, "n width"]:
        before, act = _linear(self._shared.up_proj, read), _activation(self._shared)
        if not hasattr(self._shared, "gate_proj"):
            return act(before)
        return act(_linear(self._shared.gate_proj, read)) * before

    def _shared_weight(self, read: Float[Tensor, "n d_model"]) -> Float[Tensor, "n 1"] | float:
        return 1.0 if self._shared_gate is None else _linear(self._shared_gate, read).sigmoid()


def experts_of(mlp: Any) -> Experts | None:
    """Return the experts of a block's MLP; None where it is dense, or a mixture whose experts cannot be read.

    Args:
        mlp: The MLP of a block of a ``TransformerBridge``, or None.
    """
    if getattr(mlp, "W_out", None) is not None:
        return None
    router = str(getattr(mlp, "hook_aliases", {}).get("hook_expert_weights", "")).partition(".")[0]
    mixture = _own(mlp)
    inside = {name: _own(child) for name, child in mixture.named_children()}
    routed = [name for name, module in inside.items() if _is_stack(module)]
    shared = [name for name, module in inside.items() if hasattr(module, "down_proj") and name not in routed]
    gates = [name for name, module in inside.items() if isinstance(module, nn.Linear) and module.out_features == 1]
    if len(routed) != 1 or len(shared) > 1 or len(gates) > len(shared):
        return None
    names = routed[0], next(iter(shared), None), next(iter(gates), None)
    return Experts(mixture, router, names)


def _is_stack(module: Any) -> bool:
    """Return whether a module holds experts as transformers' decorator describes them, with nothing after them.

    Without a description, whether it is laid out as Llama 4's are.
    """
    into, down = (getattr(module, name, None) for name in ("gate_up_proj", "down_proj"))
    if not (isinstance(down, Tensor) and down.ndim == 3):
        return False
    if _is_described(module):
        return not getattr(module, "has_post_expert_norm", False)
    e, width, d_model = down.shape
    return isinstance(into, Tensor) and into.shape == (e, d_model, 2 * width) and hasattr(module, "act_fn")


def _is_described(module: Any) -> bool:
    return all(hasattr(module, name) for name in ("is_transposed", "is_concatenated", "has_gate", "has_bias"))


def _as_llama4(module: Any) -> SimpleNamespace:
    """Return Llama 4's experts with the attributes that transformers' decorator gives to others."""

    def gated(before: Tensor) -> Tensor:
        gate, up = before.chunk(2, dim=-1)
        return module.act_fn(gate) * up

    layout = {"is_transposed": True, "is_concatenated": True, "has_gate": True, "has_bias": False}
    weights = {"gate_up_proj": module.gate_up_proj, "down_proj": module.down_proj}
    return SimpleNamespace(**layout, **weights, act_fn=module.act_fn, _apply_gate=gated)


def _own(module: Any) -> Any:
    """Return the module that a bridge wraps."""
    while isinstance(original := getattr(module, "original_component", None), nn.Module):
        module = original
    return module


def _weight(linear: Any) -> Float[Tensor, "out in"]:
    return _own(linear).weight


def _bias(linear: Any) -> Float[Tensor, "out"] | None:
    return _own(linear).bias


def _linear(linear: Any, read: Float[Tensor, "n in"]) -> Float[Tensor, "n out"]:
    bias = _bias(linear)
    return nn.functional.linear(read, _weight(linear).to(read.dtype), None if bias is None else bias.to(read.dtype))


def _activation(mlp: Any) -> Any:
    """Return an MLP's activation function, which Llama 4 gives another name."""
    return mlp.act_fn if hasattr(mlp, "act_fn") else mlp.activation_fn
