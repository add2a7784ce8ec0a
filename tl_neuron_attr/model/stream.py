"""What each sublayer read and what its heads, neurons and biases wrote: the file that knows models.

The rules hold for every architecture, in default and in compatibility mode:

1. head ``h`` writes ``z[h] @ W_O[h]``; attention neuron ``(h, j)`` at source ``s`` writes
   ``pattern[h, s] * v[s, h, j] * W_O[h, j]``; MLP neuron ``i`` writes ``post[i] * W_out[i]``, that of an expert times
   the router's weight of the expert; what is left is bias;
2. a norm between the sublayer and the stream (Gemma-2/3, OLMo-2) acts on each of these with its scale frozen;
3. a residual multiplier (Granite) acts on all of them;
4. in a parallel block (NeoX, Phi, GPT-J, Falcon, Cohere) attention and MLP both start from ``resid_pre``.

Weights are read as live views, layer by layer: nothing is stacked or copied.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, reduce
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr.model.cached_hooks import THIRD, CachedHooks
from tl_neuron_attr.model.hook_points import TOKENS, mlp_post_hook, pattern_hook, resid_post_hook, resid_pre_hook
from tl_neuron_attr.model.norms import is_norm
from tl_neuron_attr.model.position_cache import PositionCache
from tl_neuron_attr.model.positions import Pos, Positions, from_start
from tl_neuron_attr.model.readable_blocks import fetched
from tl_neuron_attr.model.unembedding import unembedding
from tl_neuron_attr.model.weights import BlockWeights, readable_weights
from tl_neuron_attr.numerics.readout import Norm, Readout
from tl_neuron_attr.numerics.sublayer import Site, Sublayer, score_dtype


class Stream:
    """The residual stream of a cache, with the weights that wrote it.

    Args:
        cache: A full cache of one forward pass.
        model: The model that made it; ``cache.model`` unless given.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> _, cache = model.run_with_cache("Tim Duncan plays the sport of")
        >>> stream = Stream(cache)
        >>> [sublayer.site for sublayer in stream.sublayers(stream.last)][:2]
        ['attn', 'mlp']
    """

    def __init__(self, cache: ActivationCache, model: Any = None) -> None:
        self.cache = cache
        self.model: Any = model if model is not None else cache.model
        self.hooks = CachedHooks(cache, self.model)
        self.batched = bool(cache.has_batch_dim)
        self.n_layers = int(self.model.cfg.n_layers)
        self._weights: dict[int, BlockWeights] = {}
        self._fetched: tuple[int, Any] | None = None
        self._routed: tuple[int, Tensor] | None = None

    @cached_property
    def dtype(self) -> torch.dtype:
        """The dtype of scores: float32, or float64 where the activations are."""
        return score_dtype(self._raw("blocks.0.hook_resid_pre").dtype)

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Batch (1 when the cache has no batch dimension), positions, d_model."""
        batch, pos, d_model = self.get("blocks.0.hook_resid_pre").shape
        return batch, pos, d_model

    @cached_property
    def device(self) -> torch.device:
        """Where the scores live: with the unembedding, the largest weight they need."""
        return self.model.W_U.device

    @cached_property
    def last(self) -> Positions:
        """The last position of every prompt."""
        return self.positions(-1)

    def positions(self, pos: Pos) -> Positions:
        """Return one place per prompt, negative positions counted from the end; errors as :func:`from_start`."""
        batch, length, _ = self.shape
        at = from_start(pos, batch, length).to(self.device)
        return Positions(torch.arange(batch, device=self.device), at.expand(batch))

    def tokens(self) -> Int[Tensor, "batch pos"] | None:
        """Return the prompts' token ids; None where the cache was made without ``embed.hook_in``."""
        return self._batch(TOKENS).to(self.device) if self.has(TOKENS) else None

    def get(self, name: str) -> Tensor:
        """Return a cached activation with a batch dimension, in the dtype scores are computed in."""
        return self._batch(name).to(self.device, self.dtype)

    def has(self, name: str) -> bool:
        """Return whether the cache holds ``name``, or what it is computed from."""
        return name in self.hooks

    def _raw(self, name: str) -> Tensor:
        return self.hooks[name]

    def _picked(self, value: Tensor, *index: Any) -> Tensor:
        """Return what an index picks of an activation, picked where it lies, as scores need it."""
        own = tuple(each.to(value.device) if isinstance(each, Tensor) else each for each in index)
        return value[own].to(self.device, self.dtype)

    def _batch(self, name: str) -> Tensor:
        value = self._raw(name)
        return value if self.batched else value[None]

    def at(self, name: str, places: Positions) -> Tensor:
        """Return the activation ``name`` at each place."""
        value = self._raw(name)
        if name.endswith("hook_scale") and value.ndim == 2 and self.batched:  # OPT flattens batch and position
            value = value.reshape(self.shape[0], self.shape[1], 1)
        value = value if self.batched else value[None]
        return self._picked(value, places.row, places.pos)

    def block(self, layer: int) -> Any:
        """Return the block's module."""
        return self.model.blocks[layer]

    def weights(self, layer: int) -> BlockWeights:
        """Return the block's weights, made once per layer."""
        if layer not in self._weights:
            self._weights[layer] = readable_weights(self.block(layer), self.device, lambda: self._fetch(layer))
        return self._weights[layer]

    def _fetch(self, layer: int) -> Any:
        """Return a block with weights that are not at hand; those of one block are kept, until another's are asked."""
        if self._fetched is None or self._fetched[0] != layer:
            self._fetched = None
            self._fetched = layer, fetched(self.block(layer), self.device)
        return self._fetched[1]

    def base(self, site: Site, layer: int, places: Positions) -> Float[Tensor, "batch d_model"]:
        """Return the stream a sublayer's scores start from: what it added its output to.

        The stream between attention and MLP is computed where the cache was made without it.
        """
        before = resid_pre_hook(layer)
        if site == "attn" or self.weights(layer).parallel:
            return self.at(before, places)
        between = f"blocks.{layer}.hook_resid_mid"
        if self.has(between):
            return self.at(between, places)
        return self.at(before, places) + self.out("attn", layer, places)

    def resid_pre(self, layer: int) -> Float[Tensor, "batch pos d_model"]:
        """Return the stream that a block reads, at every position."""
        return self.get(resid_pre_hook(layer))

    def pattern(self, layer: int) -> Float[Tensor, "batch head pos source"]:
        """Return a block's attention patterns.

        Raises:
            ValueError: If the cache holds them at one position of each prompt only.
        """
        if isinstance(self.cache, PositionCache):
            raise ValueError(f"{self.cache.holds()}: whole patterns are in a cache of model.run_with_cache")
        return self.get(pattern_hook(layer))

    def final(self, places: Positions) -> Float[Tensor, "batch d_model"]:
        """Return the stream after the last block at each place."""
        return self.at(resid_post_hook(self.n_layers - 1), places)

    def has_mlp_neurons(self, layer: int) -> bool:
        """Return whether the neurons of the block's MLP are known; those of experts, if their routing is cached."""
        name, weights = mlp_post_hook(layer), self.weights(layer)
        if weights.experts:
            return all(self.has(f"blocks.{layer}.{hook}") for hook in weights.experts.hooks)
        if not (weights.has_mlp_neurons and self.has(name)):
            return False
        return self._raw(name).shape[-1] == weights.d_mlp

    def neuron_count(self, sites: Sequence[Site]) -> int:
        """Return how many neurons the sublayers of ``sites`` have, an attention neuron once for each source position.

        All experts of a mixture count; one whose experts cannot be read counts for none.
        """
        every = [self.weights(layer) for layer in range(self.n_layers)]
        attn = self.shape[1] * sum(w.n_heads * w.d_head for w in every) if "attn" in sites else 0
        mlp = sum(w.d_mlp for w in every) if "mlp" in sites else 0
        return attn + mlp

    def sublayers(self, places: Positions, sites: tuple[Site, ...] = ("attn", "mlp")) -> Iterator[Sublayer]:
        """Yield every sublayer of ``sites``, in the order of the stream."""
        for layer in range(self.n_layers):
            for site in ("attn", "mlp"):
                if site in sites:
                    yield self.sublayer(site, layer, places)

    def sublayer(self, site: Site, layer: int, places: Positions) -> Sublayer:
        """Return what one sublayer read and wrote at each place."""
        attn, weights = site == "attn", self.weights(layer)
        if attn and not weights.has_attn:
            return self._mixer(layer, places)
        post, multiplier = self._post_norm(site, layer, places), weights.multiplier * self.hooks.onward(layer)
        coefficients = (
            self.attn_coefficients(layer, places) if attn else self.mlp_coefficients(layer, places)[..., None]
        )
        return Sublayer(
            site=site,
            layer=layer,
            base=self.base(site, layer, places),
            out=self.out(site, layer, places),
            bias=self._bias(site, layer, post, places) * multiplier,
            directions=weights.directions(site),
            coefficients=coefficients.flatten(1, -2),
            heads=weights.n_heads if attn else 1,
            post=post,
            multiplier=multiplier,
        )

    def _mixer(self, layer: int, places: Positions) -> Sublayer:
        """Return a block's mixer where it is no softmax attention: it has no neurons, and all it wrote is bias."""
        base, out = self.base("attn", layer, places), self.out("attn", layer, places)
        none = base.new_zeros(0, self.shape[2])
        return Sublayer("attn", layer, base, out, out, none, base.new_zeros(len(places), 0, self.shape[1]), heads=1)

    def out(self, site: Site, layer: int, places: Positions) -> Float[Tensor, "batch d_model"]:
        """Return what a sublayer wrote in all, biases included; zeros where an attention-only model has no MLP.

        What a mixer other than softmax attention wrote is the difference of the streams behind it and before it.
        """
        if site == "mlp" and not self.weights(layer).has_mlp:
            return torch.zeros(len(places), self.shape[2], dtype=self.dtype, device=self.device)
        if site == "attn" and not self.weights(layer).has_attn:
            return self.at(f"blocks.{layer}.hook_resid_mid", places) - self.at(resid_pre_hook(layer), places)
        return self.at(f"blocks.{layer}.hook_{site}_out", places)

    def attn_coefficients(self, layer: int, places: Positions) -> Float[Tensor, "batch head d_head source"]:
        """Return ``pattern * v``: what an attention neuron's direction is multiplied with, by source (paper 1, Eq. 7).

        Heads with a gate (Qwen3-Next) write that times the gate's sigmoid.

        Where :func:`~tl_neuron_attr.ablate` zeroed a head or neuron for the run, pattern and ``v`` do not show it but
        ``z``, which they make, does: zero.
        """
        values = self.attn_values(layer, places)
        return self._passed_on(values * self.pattern_rows(layer, places)[:, :, None], layer, places)

    def attn_weights(self, layer: int, places: Positions) -> Float[Tensor, "batch head d_head source"]:
        """Return what each value is multiplied with: the pattern, times the gate's sigmoid where heads have one."""
        values = self.attn_values(layer, places)
        return self._passed_on(self.pattern_rows(layer, places)[:, :, None].expand(values.shape), layer, places)

    def _passed_on(
        self, attended: Float[Tensor, "batch head d_head source"], layer: int, places: Positions
    ) -> Float[Tensor, "batch head d_head source"]:
        """Return what passes the heads' gates, and zero for what was zeroed behind them."""
        for hook in self.weights(layer).gate_hooks:
            gate = self.at(f"blocks.{layer}.{hook}", places).sigmoid().flatten(1)
            if gate.numel() == attended[..., 0].numel():  # another gate's neurons do not add up, and are refused
                attended = attended * gate.reshape(*attended.shape[:3], 1)
        z = f"blocks.{layer}.attn.hook_z"
        if not self.has(z):
            return attended
        return attended.masked_fill(self.at(z, places).reshape(*attended.shape[:3], 1) == 0, 0)

    def pattern_rows(self, layer: int, places: Positions) -> Float[Tensor, "batch head source"]:
        """Return the attention of each place to every source.

        Raises:
            ValueError: If the cache holds patterns at other positions only.
        """
        patterns = self._batch(pattern_hook(layer))
        if not isinstance(self.cache, PositionCache):
            return self._picked(patterns, places.row, slice(None), places.pos)
        kept = self.cache.pattern_pos.to(places.pos.device)[places.row]
        if bool((kept != places.pos).any()):
            raise ValueError(
                f"{self.cache.holds()}, not at {places.pos.tolist()}: run again with pos= the position scored"
            )
        return self._picked(patterns, places.row, slice(None), 0)

    def attn_values(self, layer: int, places: Positions) -> Float[Tensor, "batch head d_head source"]:
        """Return ``v`` at every source position of each place's prompt, for the heads that read it."""
        v = self._picked(self._batch(f"blocks.{layer}.attn.hook_v"), places.row)
        v = v.permute(0, 1, 3, 2) if self.weights(layer).values_by_head else v.permute(0, 2, 3, 1)
        return v.repeat_interleave(self.weights(layer).n_heads // v.shape[1], dim=1)

    def values_at(self, layer: int, places: Positions) -> Float[Tensor, "batch kv d_head"]:
        """Return ``v`` at each place, one row per key-value head."""
        v = self._batch(f"blocks.{layer}.attn.hook_v")
        return self._picked(v.transpose(1, 2) if self.weights(layer).values_by_head else v, places.row, places.pos)

    def mlp_coefficients(self, layer: int, places: Positions) -> Float[Tensor, "batch d_mlp"]:
        """Return the MLP's post-activations (paper 1, Eq. 6); those of an expert times the router's weight of it."""
        experts = self.weights(layer).live_experts
        if experts is None:
            return self.at(mlp_post_hook(layer), places)
        return experts.coefficients(self.at(f"blocks.{layer}.mlp.hook_in", places), self.routing(layer, places))

    def routing(self, layer: int, places: Positions) -> Float[Tensor, "batch expert"]:
        """Return the router's weight of every routed expert of a mixture; zero where a token was not routed to it."""
        return self.routing_everywhere(layer)[places.row, places.pos]

    def routing_everywhere(self, layer: int) -> Float[Tensor, "batch pos expert"]:
        """Return the router's weight of every routed expert of a mixture at every position.

        Raises:
            ValueError: If the layer is dense.
        """
        if self._routed is None or self._routed[0] != layer:  # kept for one layer, as its fetched weights are
            experts = self.weights(layer).live_experts
            if experts is None:
                raise ValueError(f"layer {layer} is no mixture of experts, so nothing is routed there")
            names = [f"blocks.{layer}.{hook}" for hook in experts.hooks]
            read = self._batch(names[0]).to(self.device)
            returned = [self._raw(name).to(self.device) for name in names[1:]]
            self._routed = layer, experts.routing(read, returned, self.dtype)
        return self._routed[1]

    def readout(self, places: Positions) -> Readout:
        """Return the readout at each place."""
        plain = unembedding(self.model, self.dtype)
        if not is_norm(self.model.ln_final):
            return replace(plain, norm=replace(plain.norm, scale=plain.norm.scale.expand(len(places))))
        return replace(plain, norm=self._frozen(plain.norm, "ln_final", places))

    def norm(self, layer: int, name: str, places: Positions) -> Norm:
        """Return a norm of a block (``"ln1"``, ``"ln2"``) with its scale frozen at each place."""
        return self._frozen(self.weights(layer).norm(name, self.dtype), f"blocks.{layer}.{name}", places)

    def _bias(self, site: Site, layer: int, post: Norm | None, places: Positions) -> Float[Tensor, "batch d_model"]:
        """Return the sublayer's bias as it enters the stream: through the post-norm, whose own bias it includes.

        What a block adds behind its MLP, and what experts beside it write (Gemma 4), is among the MLP's.
        """
        weights = self.weights(layer)
        if site == "mlp" and (experts := weights.live_experts):
            read = self.at(f"blocks.{layer}.mlp.hook_in", places)
            bias = experts.bias(read, self.routing(layer, places))
        else:
            own = weights.bias(site)
            zeros = torch.zeros(len(places), self.shape[2], dtype=self.dtype, device=self.device)
            bias = zeros if own is None else zeros + own.to(self.dtype)
        if post is not None:
            norm_bias = weights.norm_bias(weights.post_norm[site])
            bias = post(bias) + (0 if norm_bias is None else norm_bias.to(self.dtype))
        if site == "mlp" and weights.beside:
            experts = self.at(f"blocks.{layer}.{weights.beside[1]}.hook_out", places)
            bias = bias + self.norm(layer, weights.post_norm[site], places)(experts)
        third = f"blocks.{layer}.{THIRD}"
        return bias + self.at(third, places) if site == "mlp" and self.has(third) else bias

    def _post_norm(self, site: Site, layer: int, places: Positions) -> Norm | None:
        norms = [self.norm(layer, name, places) for name in self.weights(layer).passed(site)]
        return reduce(Norm.then, norms) if norms else None

    def _frozen(self, norm: Norm, name: str, places: Positions) -> Norm:
        return replace(norm, scale=self.at(f"{name}.hook_scale", places)[:, 0])
