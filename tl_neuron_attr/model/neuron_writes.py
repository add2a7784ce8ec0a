"""What neurons wrote into the stream, sublayer by sublayer."""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.model.positions import Positions
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.numerics.sublayer import SITES, Site
from tl_neuron_attr.results.neuron_file import PLACE
from tl_neuron_attr.results.neurons import Neurons


@dataclass(frozen=True)
class SublayerWrites:
    """What some neurons of one sublayer wrote.

    Attributes:
        site: The sublayer's site.
        layer: Its block.
        which: Which neurons they are, by their place among all, prompts one after another.
        vectors: What each added to the stream: coefficient times direction (paper 1, Eq. 5 and 7).
    """

    site: Site
    layer: int
    which: Int[Tensor, "m"]
    vectors: Float[Tensor, "m d_model"]


def neuron_writes(
    stream: Stream, places: Positions, neurons: Neurons, rows: Int[Tensor, "n"]
) -> Iterator[SublayerWrites]:
    """Yield what neurons wrote, in the order of site and layer.

    Args:
        stream: The stream they wrote into.
        places: The positions at which they did.
        neurons: The neurons, of one prompt or of several, one after another.
        rows: At which of the places each neuron wrote.
    """
    site, layer, head, source, index = (getattr(neurons, name).flatten() for name in PLACE)
    for s, la in sorted({*zip(site.tolist(), layer.tolist(), strict=True)}):
        mine = ((site == s) & (layer == la)).nonzero()[:, 0]
        sublayer = stream.sublayer(SITES[s], la, places)
        neuron = index[mine] + head[mine].clamp_min(0) * (sublayer.width // sublayer.heads)
        yield SublayerWrites(SITES[s], la, mine, sublayer.writes(rows[mine], neuron, source[mine].clamp_min(0)))
