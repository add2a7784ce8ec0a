"""One question put to a cache, checked once: which target, at which position, read out how."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr.model import cache_checks
from tl_neuron_attr.model.components import within
from tl_neuron_attr.model.positions import Pos, Positions
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.targets import Target, token_ids
from tl_neuron_attr.numerics.increase import Increase
from tl_neuron_attr.numerics.readout import Readout
from tl_neuron_attr.numerics.sublayer import Site, Sublayer


@dataclass(frozen=True)
class Question:
    """A checked cache and what is asked of it.

    Attributes:
        stream: The cache's stream.
        places: The position scored, one a prompt.
        readout: The readout frozen there.
        target: The token followed, one a prompt.
        contrast: The token it is compared with, if any.
    """

    stream: Stream
    places: Positions
    readout: Readout
    target: Int[Tensor, "batch"]
    contrast: Int[Tensor, "batch"] | None

    def increase(self, site: Site, layer: int) -> Increase:
        """Scores of what is added to the stream the sublayer read."""
        base = self.stream.base(site, layer, self.places)
        return Increase(self.readout, base, self.target, self.contrast)

    def checked_sublayers(self, sites: tuple[Site, ...], layers: Sequence[int] | None = None) -> Iterator[Sublayer]:
        """Sublayers whose neurons are known to sum to what the sublayer wrote.

        Raises:
            IndexError: If a layer is out of range or named twice.
            ValueError: If a sublayer's neurons do not add up.
        """
        wanted = range(self.stream.n_layers) if layers is None else layers
        for layer in wanted:
            within("layers", layer, self.stream.n_layers)
        if len(set(wanted)) < len(wanted):
            raise IndexError(f"layers names a layer twice: {list(wanted)}")
        for layer in wanted:
            for site in sites:
                sublayer = self.stream.sublayer(site, layer, self.places)
                along = sublayer.out / sublayer.out.norm(dim=-1, keepdim=True).clamp_min(1e-30)
                cache_checks.require_neurons_add_up(self.stream, sublayer, along, sublayer.project_onto(along))
                yield sublayer

    def log_probs(self) -> Float[Tensor, "batch d_vocab"]:
        """The model's own log-probabilities at the scored position, in nats."""
        final = self.stream.at(f"blocks.{self.stream.n_layers - 1}.hook_resid_post", self.places)
        return self.readout.finish(self.readout.logits(final))

    def finish(self, scores: Float[Tensor, "batch *n"]) -> Float[Tensor, "*b_n"]:
        """Scores as the user's cache is shaped: without a batch dimension if it has none."""
        return scores if self.stream.batched else scores[0]


def ask(
    cache: ActivationCache,
    target: Target,
    sites: tuple[Site, ...],
    *,
    pos: Pos = -1,
    contrast: Target | None = None,
    model: Any = None,
    final_bias: bool = True,
) -> Question:
    """Check ``cache`` for what ``sites`` need, read ``target`` and ``pos``, and freeze the readout.

    Raises:
        ValueError: If the cache, target or position will not do.
        IndexError: If a position or token id is out of range.
    """
    stream, places, readout = checked_stream(cache, sites, pos=pos, model=model)
    if not final_bias:
        readout = replace(readout, norm_bias=torch.zeros_like(readout.norm_bias))
    other = None if contrast is None else token_ids(stream, contrast, "contrast")
    return Question(stream, places, readout, token_ids(stream, target), other)


def checked_stream(
    cache: ActivationCache, sites: tuple[Site, ...], *, pos: Pos = -1, model: Any = None, reads: bool = False
) -> tuple[Stream, Positions, Readout]:
    """The stream of a cache that has what ``sites`` need and adds up, the places of ``pos``, and the readout there.

    With ``reads``, what the sublayers of ``sites`` read the stream through must be there too.

    Raises:
        ValueError: If the cache or position will not do.
        IndexError: If a position is out of range.
    """
    stream = Stream(cache, model)
    cache_checks.require_hooks(stream, sites, reads=reads)
    if "mlp" in sites:
        cache_checks.require_mlp_neurons(stream)
    where = stream.positions(pos)
    if stream.has("blocks.0.attn.hook_pattern"):
        cache_checks.require_real_positions(stream, where, given=not (isinstance(pos, int) and pos == -1))
    readout = stream.readout(where)
    cache_checks.require_additive(stream, readout, where)
    return stream, where, readout
