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
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr.places import Places
from tl_neuron_attr.readout import Norm, Readout
from tl_neuron_attr.weights import Site, directions, post_norm_name, score_dtype, unembedding, unit_norm


@dataclass(frozen=True)
class Sublayer:
    """One attention or MLP sublayer at the scored position of each prompt.

    ``directions[n] * coefficients[b, n, s]``, through ``post`` and times ``multiplier``, is what neuron ``n`` wrote
    from source ``s``. An MLP neuron has a single source; attention neuron ``h * d_head + j`` is dimension ``j`` of head
    ``h``.

    Attributes:
        site: ``"attn"`` or ``"mlp"``.
        layer: The block.
        base: The stream the scores start from (paper 1, Eq. 13).
        out: What the sublayer wrote in all, biases included.
        bias: The part of ``out`` that no neuron wrote.
        directions: One write direction a neuron: rows of ``W_O`` or ``W_out``, in the model's own dtype.
        coefficients: How far each neuron moved along its direction.
        heads: The number of heads the neurons are divided into; 1 for an MLP.
        post: The norm between the sublayer and the stream, if there is one.
        multiplier: The residual multiplier.
    """

    site: Site
    layer: int
    base: Float[Tensor, "batch d_model"]
    out: Float[Tensor, "batch d_model"]
    bias: Float[Tensor, "batch d_model"]
    directions: Float[Tensor, "neuron d_model"]
    coefficients: Float[Tensor, "batch neuron source"]
    heads: int
    post: Norm | None = None
    multiplier: float = 1.0

    @property
    def gain(self) -> Float[Tensor, "batch"] | float:
        """What the post-norm's scale and the residual multiplier make of a coefficient."""
        return self.multiplier if self.post is None else self.multiplier / self.post.scale

    @property
    def width(self) -> int:
        """The number of neurons, sources not counted."""
        return self.directions.shape[0]

    @property
    def sources(self) -> int:
        """The number of source positions a neuron writes from; 1 for an MLP."""
        return self.coefficients.shape[2]

    def shaped(self, start: int = 0, stop: int | None = None) -> Float[Tensor, "neuron d_model"]:
        """Directions ``start:stop`` as they enter the stream, without the prompt's :attr:`gain`."""
        rows = self.directions[start:stop].to(self.base.dtype)
        return rows if self.post is None else self.post.shape(rows)

    def scaled_coefficients(self) -> Float[Tensor, "batch neuron source"]:
        """Coefficients times :attr:`gain`: with :meth:`shaped` directions, the neurons' writes."""
        gain = self.gain
        return self.coefficients * (gain[:, None, None] if isinstance(gain, Tensor) else gain)

    def along(self, vectors: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch neuron source"]:
        """How much each neuron wrote along one vector a prompt: one matrix-vector product a prompt."""
        pulled = vectors if self.post is None else self.post.pull_back(vectors)
        return self.scaled_coefficients() * (pulled @ self.directions.to(pulled.dtype).T)[:, :, None]

    def heads_along(self, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n head source"]:
        """How much each head wrote from each source along several vectors, all of the one place it was read at."""
        pulled = vectors if self.post is None else self.post.pull_back(vectors)
        by_neuron = (pulled @ self.directions.to(pulled.dtype).T).unflatten(1, (self.heads, -1))
        return torch.einsum("nhj,hjs->nhs", by_neuron, self.scaled_coefficients()[0].unflatten(0, (self.heads, -1)))

    def writes(
        self, rows: Int[Tensor, "n"], neuron: Int[Tensor, "n"], source: Int[Tensor, "n"]
    ) -> Float[Tensor, "n d_model"]:
        """What single neurons wrote in the prompts ``rows``."""
        vectors = self.directions[neuron].to(self.base.dtype)
        shaped = vectors if self.post is None else self.post.shape(vectors)
        return shaped * self.scaled_coefficients()[rows, neuron, source][:, None]

    def select(self, rows: Int[Tensor, "n"]) -> "Sublayer":
        """The sublayer in the prompts ``rows``."""
        return replace(
            self,
            base=self.base[rows],
            out=self.out[rows],
            bias=self.bias[rows],
            coefficients=self.coefficients[rows],
            post=None if self.post is None else self.post.select(rows),
        )

    def head_writes(self) -> Float[Tensor, "batch head source d_model"]:
        """What each head wrote from each source position (paper 1, Eq. 7)."""
        coefficients = self.scaled_coefficients().unflatten(1, (self.heads, -1))
        directions = self.shaped().unflatten(0, (self.heads, -1))
        return torch.einsum("bhjs,hjd->bhsd", coefficients, directions)


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
    def last(self) -> Places:
        """The last position of every prompt."""
        return self.places(torch.tensor(self.shape[1] - 1, device=self.device))

    def places(self, pos: Int[Tensor, ""] | Int[Tensor, "batch"]) -> Places:
        """One place a prompt."""
        return Places(torch.arange(self.shape[0], device=self.device), pos.expand(self.shape[0]))

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

    def at(self, name: str, places: Places) -> Tensor:
        """The activation ``name`` at each place."""
        value = self._raw(name)
        if name.endswith("hook_scale") and value.ndim == 2 and self.batched:  # OPT flattens batch and position
            value = value.reshape(self.shape[0], self.shape[1], 1)
        value = value if self.batched else value[None]
        return value[places.row, places.pos].to(self.dtype)

    def block(self, layer: int) -> Any:
        """The block's module."""
        return self.model.blocks[layer]

    def base(self, site: Site, layer: int) -> str:
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

    def sublayers(self, places: Places, sites: tuple[Site, ...] = ("attn", "mlp")) -> Iterator[Sublayer]:
        """Every sublayer of ``sites``, in the order of the stream."""
        for layer in range(self.n_layers):
            for site in ("attn", "mlp"):
                if site in sites:
                    yield self.sublayer(site, layer, places)

    def sublayer(self, site: Site, layer: int, places: Places) -> Sublayer:
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
            base=self.at(self.base(site, layer), places),
            out=self.out(site, layer, places),
            bias=self._bias(site, layer, post, len(places)) * multiplier,
            directions=directions(block, site),
            coefficients=coefficients.flatten(1, -2),
            heads=block.attn.W_O.shape[0] if attn else 1,
            post=post,
            multiplier=multiplier,
        )

    def out(self, site: Site, layer: int, places: Places) -> Float[Tensor, "batch d_model"]:
        """What a sublayer wrote in all, biases included."""
        return self.at(f"blocks.{layer}.hook_{site}_out", places)

    def attn_coefficients(self, layer: int, places: Places) -> Float[Tensor, "batch head d_head source"]:
        """``pattern * v``: what an attention neuron's direction is multiplied with, by source (paper 1, Eq. 7).

        Where :func:`~tl_neuron_attr.ablate` zeroed a head or neuron for the run, pattern and ``v`` do not show it but
        ``z``, which they make, does: zero.
        """
        pattern = self._batch(f"blocks.{layer}.attn.hook_pattern")[places.row, :, places.pos].to(self.dtype)
        coefficients = self.attn_values(layer, places) * pattern[:, :, None]
        z = f"blocks.{layer}.attn.hook_z"
        return coefficients.masked_fill((self.at(z, places) == 0)[..., None], 0) if self.has(z) else coefficients

    def attn_values(self, layer: int, places: Places) -> Float[Tensor, "batch head d_head source"]:
        """``v`` at every source position of each place's prompt, for the heads that read it."""
        v = self._batch(f"blocks.{layer}.attn.hook_v")[places.row].to(self.dtype).permute(0, 2, 3, 1)
        return v.repeat_interleave(len(self.block(layer).attn.W_O) // v.shape[1], dim=1)

    def mlp_coefficients(self, layer: int, places: Places) -> Float[Tensor, "batch d_mlp"]:
        """The MLP's post-activations (paper 1, Eq. 6)."""
        return self.at(f"blocks.{layer}.mlp.hook_post", places)

    def readout(self, places: Places) -> Readout:
        """The readout at each place."""
        plain = unembedding(self.model, self.dtype)
        return replace(plain, norm=self._frozen(self.model.ln_final, "ln_final", places))

    def norm(self, layer: int, name: str, places: Places) -> Norm:
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

    def _post_norm(self, site: Site, layer: int, places: Places) -> Norm | None:
        name = post_norm_name(self.block(layer), site)
        return self.norm(layer, name, places) if name else None

    def _frozen(self, module: Any, name: str, places: Places) -> Norm:
        return replace(unit_norm(module, self.dtype), scale=self.at(f"{name}.hook_scale", places)[:, 0])
