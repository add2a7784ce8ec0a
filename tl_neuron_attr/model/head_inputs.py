"""Directions carried back through a head: from what attention wrote to the streams that it read (paper 3, stage b).

What a head wrote at a position is linear in the streams at its sources, its pattern and all norms as they were, so a
direction ``u`` at its output is a direction at each source:

    u . (the head's write of component c at source s) = pattern[s] * ( W_O W_V norm_s(c) ) . u = c . direction[s]

The norms' biases and those of the values are no component's and are left out.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr.model.additive_checks import require_neurons_add_up
from tl_neuron_attr.model.positions import Positions
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.subkey_checks import require_values


def carried_back(
    stream: Stream, layer: int, head: int | None, pos: int, direction: Float[Tensor, "d_model"]
) -> Float[Tensor, "source d_model"]:
    """Return a direction at the output of attention at ``pos``, as directions of the streams at its sources.

    Args:
        stream: The stream of one prompt.
        layer: The attention layer.
        head: The head; None for all heads of the layer.
        pos: The position attention wrote to.
        direction: The direction, as it stands in the stream.

    Raises:
        ValueError: If the cached values or the layer's output are not what the model's weights give.
    """
    weights, sources = stream.weights(layer), torch.arange(pos + 1, device=stream.device)
    sublayer = stream.sublayer("attn", layer, stream.positions(pos))
    places = Positions(torch.zeros_like(sources), sources)
    require_values(stream, layer, places)
    require_neurons_add_up(stream, sublayer, direction[None], sublayer.project_onto(direction[None]))
    at_output = direction if sublayer.post is None else sublayer.post.adjoint(direction)
    zeroed = stream.get(f"blocks.{layer}.attn.hook_z")[0, pos] == 0  # the pattern does not show what was ablated
    W_O, W_V = weights.W_O.to(stream.dtype), weights.by_head("v").to(stream.dtype)
    read = torch.einsum("hjd,d->hj", W_O, at_output * sublayer.gain).masked_fill(zeroed, 0)
    by_head = torch.einsum("hdj,hj->hd", W_V, read)
    pattern = stream.pattern(layer)[0, :, pos, : pos + 1]
    chosen = slice(None) if head is None else slice(head, head + 1)
    at_input = torch.einsum("hs,hd->sd", pattern[chosen], by_head[chosen])
    if not (name := weights.pre_norm["attn"]):
        return at_input
    norm = stream.norm(layer, name, places)
    return norm.adjoint(at_input) / norm.scale[:, None]
