"""What each sublayer read and what its heads, neurons and biases wrote: the file that knows models.

The rules hold for every architecture, in default and in compatibility mode:

1. head ``h`` writes ``z[h] @ W_O[h]``; attention neuron ``(h, j)`` at source ``s`` writes
   ``pattern[h, s] * v[s, h, j] * W_O[h, j]``; MLP neuron ``i`` writes ``post[i] * W_out[i]``; what is left is bias;
2. a norm between the sublayer and the stream (Gemma-2/3, OLMo-2) acts on each of these with its scale frozen;
3. a residual multiplier (Granite) acts on all of them;
4. in a parallel block (NeoX, Phi, GPT-J, Falcon, Cohere) attention and MLP both start from ``resid_pre``.

Weights are read as live views, layer by layer: nothing is stacked or copied.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr.model.positions import Pos, Positions, from_start
from tl_neuron_attr.model.weights import directions, post_norm_name, unembedding, unit_norm
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
        self.batched = bool(cache.has_batch_dim)
        self.n_layers = int(self.model.cfg.n_layers)

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
        """Where the scores live."""
        return self._raw("blocks.0.hook_resid_pre").device

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
        """The prompts' token ids; None where the cache was made without ``embed.hook_in``."""
        if not self.has("embed.hook_in"):
            return None
        return self._batch("embed.hook_in")

    def get(self, name: str) -> Tensor:
        """A cached activation with a batch dimension, in the dtype scores are computed in."""
        return self._batch(name).to(self.dtype)

    def has(self, name: str) -> bool:
        """Whether the cache holds ``name``."""
        return name in self.cache

    def _raw(self, name: str) -> Tensor:
        return self.cache[name]

    def _batch(self, name: str) -> Tensor:
        value = self._raw(name)
        return value if self.batched else value[None]

    def at(self, name: str, places: Positions) -> Tensor:
        """The activation ``name`` at each place."""
        value = self._raw(name)
        if name.endswith("hook_scale") and value.ndim == 2 and self.batched:  # OPT flattens batch and position
            value = value.reshape(self.shape[0], self.shape[1], 1)
        value = value if self.batched else value[None]
        return value[places.row, places.pos].to(self.dtype)

    def block(self, layer: int) -> Any:
        """The block's module."""
        return self.model.blocks[layer]

    def base_hook(self, site: Site, layer: int) -> str:
        """The hook a sublayer's scores start from: what the sublayer added its output to."""
        mid = f"blocks.{layer}.hook_resid_mid"
        return mid if site == "mlp" and self.has(mid) else f"blocks.{layer}.hook_resid_pre"

    def has_mlp_neurons(self, layer: int) -> bool:
        """Whether the block's MLP is made of neurons, rather than of routed experts."""
        W_out = getattr(self.block(layer).mlp, "W_out", None)
        name = f"blocks.{layer}.mlp.hook_post"
        return W_out is not None and self.has(name) and self._raw(name).shape[-1] == W_out.shape[0]

    def neuron_count(self, sites: Sequence[Site]) -> int:
        """How many neurons the sublayers of ``sites`` have, an attention neuron once for each source position."""
        blocks = [self.block(layer) for layer in range(self.n_layers)]
        attn = self.shape[1] * sum(len(directions(b, "attn")) for b in blocks) if "attn" in sites else 0
        return attn + (sum(len(directions(b, "mlp")) for b in blocks) if "mlp" in sites else 0)

    def sublayers(self, places: Positions, sites: tuple[Site, ...] = ("attn", "mlp")) -> Iterator[Sublayer]:
        """Every sublayer of ``sites``, in the order of the stream."""
        for layer in range(self.n_layers):
            for site in ("attn", "mlp"):
                if site in sites:
                    yield self.sublayer(site, layer, places)

    def sublayer(self, site: Site, layer: int, places: Positions) -> Sublayer:
        """What one sublayer read and wrote at each place."""
        attn = site == "attn"
        block = self.block(layer)
        post = self._post_norm(site, layer, places)
        multiplier = float(getattr(block, "residual_contribution_scale", None) or 1.0)
        coefficients = (
            self.attn_coefficients(layer, places) if attn else self.mlp_coefficients(layer, places)[..., None]
        )
        return Sublayer(
            site=site,
            layer=layer,
            base=self.at(self.base_hook(site, layer), places),
            out=self.out(site, layer, places),
            bias=self._bias(site, layer, post, len(places)) * multiplier,
            directions=directions(block, site),
            coefficients=coefficients.flatten(1, -2),
            heads=block.attn.W_O.shape[0] if attn else 1,
            post=post,
            multiplier=multiplier,
        )

    def out(self, site: Site, layer: int, places: Positions) -> Float[Tensor, "batch d_model"]:
        """What a sublayer wrote in all, biases included."""
        return self.at(f"blocks.{layer}.hook_{site}_out", places)

    def attn_coefficients(self, layer: int, places: Positions) -> Float[Tensor, "batch head d_head source"]:
        """``pattern * v``: what an attention neuron's direction is multiplied with, by source (paper 1, Eq. 7).

        Where :func:`~tl_neuron_attr.ablate` zeroed a head or neuron for the run, pattern and ``v`` do not show it but
        ``z``, which they make, does: zero.
        """
        pattern = self._batch(f"blocks.{layer}.attn.hook_pattern")[places.row, :, places.pos].to(self.dtype)
        coefficients = self.attn_values(layer, places) * pattern[:, :, None]
        z = f"blocks.{layer}.attn.hook_z"
        return coefficients.masked_fill((self.at(z, places) == 0)[..., None], 0) if self.has(z) else coefficients

    def attn_values(self, layer: int, places: Positions) -> Float[Tensor, "batch head d_head source"]:
        """``v`` at every source position of each place's prompt, for the heads that read it."""
        v = self._batch(f"blocks.{layer}.attn.hook_v")[places.row].to(self.dtype).permute(0, 2, 3, 1)
        return v.repeat_interleave(len(self.block(layer).attn.W_O) // v.shape[1], dim=1)

    def mlp_coefficients(self, layer: int, places: Positions) -> Float[Tensor, "batch d_mlp"]:
        """The MLP's post-activations (paper 1, Eq. 6)."""
        return self.at(f"blocks.{layer}.mlp.hook_post", places)

    def readout(self, places: Positions) -> Readout:
        """The readout at each place."""
        plain = unembedding(self.model, self.dtype)
        return replace(plain, norm=self._frozen(self.model.ln_final, "ln_final", places))

    def norm(self, layer: int, name: str, places: Positions) -> Norm:
        """A norm of a block (``"ln1"``, ``"ln2"``) with its scale frozen at each place."""
        return self._frozen(getattr(self.block(layer), name), f"blocks.{layer}.{name}", places)

    def _bias(self, site: Site, layer: int, post: Norm | None, n: int) -> Float[Tensor, "batch d_model"]:
        """The sublayer's bias as it enters the stream: through the post-norm, whose own bias it includes."""
        block = self.block(layer)
        own = getattr(block.attn, "b_O", None) if site == "attn" else getattr(block.mlp, "b_out", None)
        zeros = torch.zeros(n, self.shape[2], dtype=self.dtype, device=self.device)
        bias = zeros if own is None else zeros + own.to(self.dtype)
        if post is None:
            return bias
        norm_bias = getattr(getattr(block, post_norm_name(block, site)), "b", None)
        return post(bias) + (0 if norm_bias is None else norm_bias.to(self.dtype))

    def _post_norm(self, site: Site, layer: int, places: Positions) -> Norm | None:
        name = post_norm_name(self.block(layer), site)
        return self.norm(layer, name, places) if name else None

    def _frozen(self, module: Any, name: str, places: Positions) -> Norm:
        return replace(unit_norm(module, self.dtype), scale=self.at(f"{name}.hook_scale", places)[:, 0])
