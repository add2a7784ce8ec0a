"""A cache's activations as parts of one sum, also where blocks do more than add two outputs to the stream.

A block of Gemma 4 adds a third output, an embedding of the token by layer, and multiplies the whole stream with a
number of its own, its scalar. The stream behind the last block is then the sum of what every sublayer wrote, times the
scalars of its own block and of all blocks behind it. Every part of the stream is counted as it arrives there:

    part * product of the scalars of blocks l, l + 1, ...

so that blocks add again. The third output counts as part of what the MLP wrote, beside its neurons. A norm in front of
a sublayer reads so many times more, and its scale is that much larger.
"""

from collections.abc import Container
from functools import cached_property
from math import prod
from typing import Any

from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr.model.bare_norms import bare_eps, root_mean_square
from tl_neuron_attr.model.head_projections import values_layer

THIRD = "post_per_layer_input_norm.hook_out"
"""What a block adds to the stream behind its MLP, by the name of its module."""

_SCALED = ("hook_resid_pre", "hook_resid_mid", "hook_attn_out", "hook_mlp_out", "ln1.hook_scale", "ln2.hook_scale")
"""What is counted times the scalar of its own block and of all behind it."""

_COMPUTED_FROM = (
    *(f"{norm}.hook_in" for norm in ("ln1", "ln2", "ln1_post", "ln2_post", "ln_final", "v_norm")),
    *(f"post_feedforward_layernorm_{i}.hook_{end}" for i, end in ((1, "in"), (2, "out"))),
    *("v_norm.hook_out", THIRD),
)  # fmt: skip
"""What norms without a hook on their scale read, and what else of such a model is in no hook of the usual names."""


class CachedHooks:
    """The activations of a cache by the names of hooks, also of those that are computed from others.

    Args:
        cache: The cache.
        model: The model that made it.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan")
        >>> hooks = CachedHooks(cache, cache.model)
        >>> hooks.behind("blocks.0.hook_mlp_out"), hooks.onward(0)  # a plain model: nothing is computed
        (('blocks.0.hook_mlp_out',), 1.0)
    """

    def __init__(self, cache: ActivationCache, model: Any) -> None:
        self.cache, self.model = cache, model

    def __contains__(self, name: str) -> bool:
        return all(hook in self.cache for hook in self.behind(name))

    def __getitem__(self, name: str) -> Tensor:
        first, *more = self.behind(name)
        found = self.cache[first]
        if first != name and (eps := self._eps(name)) is not None:
            found = root_mean_square(found, eps)
        for hook in more:
            found = found + self.cache[hook]
        factor = self._factor(name)
        return found if factor == 1.0 else found * factor

    def behind(self, name: str) -> tuple[str, ...]:
        """Return the hooks that an activation is read off: its own, or those that it is computed from."""
        if not self._computed:
            return (name,)
        if self._eps(name) is not None:
            return (name.removesuffix("hook_scale") + "hook_in",)
        if name.endswith("attn.hook_v"):
            values = f"blocks.{values_layer(self.model, _layer(name))}.attn."
            normed = f"{values}v_norm.hook_out"
            return (normed if normed in self._computed else f"{values}hook_v",)
        third = name.replace("hook_mlp_out", THIRD)
        return (name, third) if third != name and third in self._computed else (name,)

    def onward(self, layer: int) -> float:
        """Return what a block and all behind it multiply the stream with: 1 unless blocks have scalars."""
        return prod(self._scalars[layer:], start=1.0)

    @cached_property
    def _scalars(self) -> list[float]:
        return [float(getattr(block, "layer_scalar", 1.0)) for block in getattr(self.model, "blocks", ())]

    @cached_property
    def _computed(self) -> Container[str]:
        """The hooks of a model some of whose activations are computed from others; nothing of every other model."""
        return frozenset(self.model.hook_dict) if computed_from(self.model) else frozenset()

    def _eps(self, name: str) -> float | None:
        """Return what is added under the root of a scale that no hook shows; None of every other activation."""
        if not name.endswith(".hook_scale"):
            return None
        module: Any = self.model
        for part in name.split(".")[:-1]:
            module = module[int(part)] if part.isdecimal() else getattr(module, part, None)
        return bare_eps(module)

    def _factor(self, name: str) -> float:
        if name in ("hook_embed", "hook_pos_embed"):
            return self.onward(0)
        hook = name.split(".", 2)[2] if name.startswith("blocks.") else ""
        if hook == "hook_resid_post":
            return self.onward(_layer(name) + 1)
        return self.onward(_layer(name)) if hook in _SCALED else 1.0


def computed_from(model: Any) -> tuple[str, ...]:
    """Return how the names of hooks end that activations of a model are computed from; none of a plain model."""
    bare = any(bare_eps(getattr(block, "ln1", None)) is not None for block in getattr(model, "blocks", ()))
    return _COMPUTED_FROM if bare else ()


def _layer(name: str) -> int:
    return int(name.split(".")[1])
