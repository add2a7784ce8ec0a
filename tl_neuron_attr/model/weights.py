"""A model's weights as the decomposition needs them, read off its modules; live views, nothing stacked.

With :mod:`tl_neuron_attr.model.stream`, :mod:`~tl_neuron_attr.model.norms` and
:mod:`~tl_neuron_attr.model.unembedding`, the place that knows how TransformerLens names weights.
"""

from collections.abc import Callable
from functools import cache, cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge.generalized_components.block import ParallelBlockBridge

from tl_neuron_attr.model.bare_norms import bare_eps
from tl_neuron_attr.model.experts import Experts, experts_of
from tl_neuron_attr.model.head_projections import input_projection, output_projection
from tl_neuron_attr.model.latent_values import LATENT_NORM, has_latent_values, latent_subkeys
from tl_neuron_attr.model.norms import is_norm, unit_norm
from tl_neuron_attr.model.readable_blocks import fetched, is_at_hand, outline
from tl_neuron_attr.model.within import within
from tl_neuron_attr.numerics.readout import Norm
from tl_neuron_attr.numerics.stacked_rows import StackedRows
from tl_neuron_attr.numerics.sublayer import SITES, Site

_BESIDE = ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2")
"""The norms of an MLP and of experts that write beside it."""

Projected = Literal["q", "k", "v"]
"""What a head projects the stream to: its query, key or value."""


class BlockWeights:
    """The weights of one block, and how its two sublayers stand to the stream.

    Weights are looked up in the modules at each use, so they are the ones the model has now.

    Args:
        block: A block of a ``TransformerBridge``, or the outline of one whose weights are not at hand.
        read: Returns that block with its weights, of one that is not at hand; see
            :mod:`tl_neuron_attr.model.readable_blocks`.

    Attributes:
        parallel: Whether attention and MLP both read the block's input (NeoX, Phi, GPT-J, Falcon, Cohere). Read off
            the block's class: a config may claim it of a model that is not built so.
        multiplier: What both sublayers' outputs are multiplied with (Granite); 1 elsewhere.
        post_norm: By site, the name of the norm between the sublayer and the stream (Gemma-2/3, OLMo-2), or "".
        beside: The norm that the MLP alone passes and that of experts beside it, before what both wrote passes the
            post-norm together (Gemma 4); empty elsewhere.
        pre_norm: By site, the name of the norm the sublayer reads the stream through; "" where it reads it bare.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> weights = BlockWeights(tna.demo.load().blocks[0])
        >>> weights.parallel, weights.pre_norm, weights.post_norm
        (False, {'attn': 'ln1', 'mlp': 'ln2'}, {'attn': '', 'mlp': ''})
    """

    def __init__(self, block: Any, read: Callable[[], Any] | None = None) -> None:
        self.block, self._read = block, read
        self.parallel = isinstance(block, ParallelBlockBridge)
        self.multiplier = float(getattr(block, "residual_contribution_scale", None) or 1.0)
        self.post_norm: dict[Site, str] = {site: _post_norm(block, site) for site in SITES}
        self.beside = _BESIDE if all(is_norm(getattr(block, name, None)) for name in _BESIDE) else ()
        self.pre_norm: dict[Site, str] = {site: self._pre_norm(site) for site in SITES}

    @property
    def at_hand(self) -> bool:
        """Whether weights are the model's own, in memory; otherwise they are a copy, which nothing may edit."""
        return self._read is None

    @property
    def live(self) -> Any:
        """The block with its weights, read now if they are not at hand."""
        return self.block if self._read is None else self._read()

    @cached_property
    def has_attn(self) -> bool:
        """Whether the block has softmax attention: blocks of a hybrid may mix positions otherwise, as a whole."""
        return self._head_sizes is not None

    @cached_property
    def values_by_head(self) -> bool:
        """Whether ``hook_v`` has heads before positions, as multi-head latent attention has them (DeepSeek)."""
        return self.has_attn and getattr(getattr(self.block.attn, "hook_v", None), "pos_dim", 1) == 2

    @cached_property
    def latent_norm(self) -> str:
        """The norm inside latent attention that values pass; empty elsewhere."""
        return LATENT_NORM if self.values_by_head and has_latent_values(self.block.attn) else ""

    @cached_property
    def values_norm(self) -> str:
        """The norm that values pass on their way from the stream: of latent attention, or of each head (Gemma 4)."""
        of_heads = bare_eps(getattr(getattr(self.block, "attn", None), "v_norm", None)) is not None
        return "attn.v_norm" if of_heads else self.latent_norm

    @cached_property
    def gate_hooks(self) -> tuple[str, ...]:
        """The hook of the gate that heads pass their output through, before its sigmoid, where they have one."""
        attn = getattr(self.block, "attn", None)
        separate = getattr(getattr(attn, "gate", None), "original_component", None) is not None
        named = {"hook_q_gate": hasattr(attn, "hook_q_gate"), "gate.hook_out": separate}
        return tuple(f"attn.{name}" for name, there in named.items() if there)[:1]

    @cached_property
    def has_mlp(self) -> bool:
        """Whether the block has an MLP at all: attention-only models have none."""
        return hasattr(self.block, "mlp")

    @cached_property
    def has_mlp_neurons(self) -> bool:
        """Whether the neurons of the block's MLP can be read: one of its own, or of experts."""
        return self.experts is not None or (self.has_mlp and getattr(self.block.mlp, "W_out", None) is not None)

    @cached_property
    def experts(self) -> Experts | None:
        """The experts of the block's MLP, where it is a mixture of them; weights are those of :attr:`live_experts`."""
        return experts_of(self.block.mlp) if self.has_mlp else None

    @property
    def live_experts(self) -> Experts | None:
        """The same experts with their weights."""
        return self.experts if self.at_hand or self.experts is None else experts_of(self.live.mlp)

    @property
    def gated(self) -> bool:
        """Whether MLP neurons have a gate beside their input projection."""
        return self.experts.gated if self.experts else getattr(self.block.mlp, "W_gate", None) is not None

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:
        """The output projection of each head."""
        found = output_projection(self.live.attn)
        assert found is not None  # asked for of blocks with attention only
        return found

    @property
    def n_heads(self) -> int:
        """The number of heads; 0 where the block has no softmax attention."""
        return 0 if self._head_sizes is None else self._head_sizes[0]

    @property
    def d_head(self) -> int:
        """The number of dimensions, or attention neurons, of each head."""
        return 0 if self._head_sizes is None else self._head_sizes[1]

    @property
    def d_mlp(self) -> int:
        """The number of MLP neurons, those of all experts; 0 where they cannot be read."""
        return (self.experts.neurons if self.experts else len(self.block.mlp.W_out)) if self.has_mlp_neurons else 0

    def directions(self, site: Site) -> Float[Tensor, "neuron d_model"] | StackedRows:
        """Return each neuron's write direction: rows of ``W_out``, expert by expert, or of ``W_O``, head by head."""
        if site == "attn":
            return self.W_O.flatten(0, 1)
        experts = self.live_experts
        return experts.directions() if experts else self.live.mlp.W_out

    def bias(self, site: Site) -> Float[Tensor, "d_model"] | None:
        """Return what the sublayer adds whatever it reads, before the post-norm; None where it has no bias."""
        return _or_none(self.live.attn, "b_O") if site == "attn" else _or_none(self.live.mlp, "b_out")

    def shared_by(self, side: Projected) -> int:
        """Return how many heads share a projection: 1, or more where queries are grouped.

        Raises:
            ValueError: If the attention is latent, where heads have no such projection.
        """
        if self.values_by_head:
            raise ValueError(
                "latent attention makes queries, keys and values of a compressed stream, so that its heads have no "
                f"W_{side.upper()} of their own: scores, query neurons, ablate and verify work, this method does not"
            )
        return self.n_heads // len(input_projection(self.block.attn, side, self.d_head))

    def projection(self, side: Projected, head: int) -> tuple[Float[Tensor, "d_model d_head"], Tensor | None]:
        """Return the weight and bias of a head's query, key or value; heads may share the latter two."""
        own, bias = head // self.shared_by(side), _or_none(self.live.attn, f"b_{side.upper()}")
        return self._projections(side)[own], None if bias is None else bias.reshape(-1, self.d_head)[own]

    def by_head(self, side: Projected) -> Float[Tensor, "head d_model d_head"]:
        """Return the projection of every head, shared ones repeated (a copy where they are).

        That of values of latent attention is times the scale of its inner norm, :attr:`latent_norm`.
        """
        if side == "v" and self.latent_norm:
            every, _ = self.subkeys_of("v", torch.arange(self.n_heads * self.d_head, device=self.W_O.device))
            return every.unflatten(0, (self.n_heads, self.d_head)).transpose(1, 2)
        shared = self.shared_by(side)
        return self._projections(side) if shared == 1 else self._projections(side).repeat_interleave(shared, dim=0)

    def keys(self, which: str) -> tuple[Float[Tensor, "d_model neuron"], Float[Tensor, "neuron"] | None]:
        """Return the subkey of every neuron and its bias: those of the gate, the input (``"in"``) or the value."""
        if which != "v":
            mlp = self.live.mlp
            return (mlp.W_gate, _or_none(mlp, "b_gate")) if which == "gate" else (mlp.W_in, _or_none(mlp, "b_in"))
        bias = _or_none(self.live.attn, "b_V")
        if bias is not None:
            bias = bias.reshape(-1, self.d_head).repeat_interleave(self.shared_by("v"), dim=0).flatten()
        return self.by_head("v").transpose(0, 1).flatten(1), bias

    def subkeys_of(
        self, which: str, index: Int[Tensor, "n"]
    ) -> tuple[Float[Tensor, "n d_model"], Float[Tensor, "n"] | None]:
        """Return the subkeys of some neurons, one row each, and their biases; see :meth:`keys`.

        Those of attention neurons of latent attention are times the scale of its inner norm, :attr:`latent_norm`.
        """
        if which != "v" and (experts := self.live_experts):
            return experts.keys(which, index)
        if which == "v" and self.latent_norm:
            attn = self.live.attn
            norm = unit_norm(attn.kv_a_layernorm, attn.kv_b_proj.weight.dtype, attn.kv_b_proj.weight[0])
            return latent_subkeys(attn, index, (self.n_heads, self.d_head), norm.weight)
        keys, biases = self.keys(which)
        return keys[:, index].T, None if biases is None else biases[index]

    def norm(self, name: str, dtype: torch.dtype) -> Norm:
        """Return a norm of the block (``"ln1"``) with a scale of one."""
        like = self.W_O[0, 0] if self.has_attn else self.directions("mlp")[:1][0]
        return unit_norm(getattr(self.live, name), dtype, like)

    def norm_bias(self, name: str) -> Float[Tensor, "d_model"] | None:
        """Return a norm's bias; None where it has none."""
        return _or_none(getattr(self.live, name), "b")

    def as_written(self, site: Site, rows: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """Return write directions as they enter the stream, up to a positive factor: through the post-norm, if any."""
        for name in self.passed(site):
            rows = self.norm(name, rows.dtype).apply_unscaled(rows)
        return rows

    def passed(self, site: Site) -> tuple[str, ...]:
        """Return the norms that what heads or MLP neurons write passes on its way to the stream."""
        own = self.beside[:1] if site == "mlp" else ()
        return (*own, self.post_norm[site]) if self.post_norm[site] else own

    def require_head(self, layer: int, head: int | None) -> None:
        """Refuse a block without attention heads, and a head out of range; the layer's number is for the error.

        Raises:
            ValueError: If the block mixes positions otherwise.
            IndexError: With the valid range.
        """
        if not self.has_attn:
            raise ValueError(f"layer {layer} has no attention heads; its mixer counts as a whole")
        if head is not None:
            within("head", head, self.n_heads)

    @cached_property
    def _head_sizes(self) -> tuple[int, int] | None:
        """How many heads there are, and of how many dimensions; None where the block mixes positions otherwise."""
        heads = output_projection(getattr(self.block, "attn", None))
        return None if heads is None else (heads.shape[0], heads.shape[1])

    def _projections(self, side: Projected) -> Float[Tensor, "kv d_model d_head"]:
        return input_projection(self.live.attn, side, self.d_head)

    def _pre_norm(self, site: Site) -> str:
        names = ("ln2", "ln1") if site == "mlp" else ("ln1",)  # a parallel MLP without a norm of its own shares ln1
        after = self.post_norm.values()
        return next((n for n in names if is_norm(getattr(self.block, n, None)) and n not in after), "")


def _post_norm(block: Any, site: Site) -> str:
    owner = str(block.hook_aliases.get(f"hook_{site}_out", "")).split(".")[0]
    return owner if owner.startswith("ln") else ""


def _or_none(module: Any, name: str) -> Tensor | None:
    return getattr(module, name, None)


def block_weights(model: Any, layer: int) -> BlockWeights:
    """Return the weights of a layer.

    Raises:
        IndexError: If there is no such layer, with the valid range.
    """
    within("layer", layer, model.cfg.n_layers)
    device, block = model.W_U.device, model.blocks[layer]
    return readable_weights(block, device, cache(lambda: fetched(block, device)))


def readable_weights(block: Any, device: torch.device, read: Callable[[], Any]) -> BlockWeights:
    """Return a block's weights as numbers on a device: its own, or those of what ``read`` returns when asked for."""
    return BlockWeights(block) if is_at_hand(block, device) else BlockWeights(outline(block), read)


def editable_weights(model: Any, layer: int) -> BlockWeights:
    """Return the weights of a layer to be changed in place, on the device they lie on.

    Raises:
        ValueError: If they are offloaded or quantised: a change would be lost, or not what it says.
    """
    block = model.blocks[layer]
    if not is_at_hand(block, next(block.parameters()).device):
        raise ValueError(
            f"the weights of layer {layer} are offloaded or quantised, so that they cannot be changed in place: boot "
            "the model with its weights in memory, or use ablate, which changes activations"
        )
    return BlockWeights(block)
