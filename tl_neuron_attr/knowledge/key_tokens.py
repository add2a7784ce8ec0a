"""The tokens that switch neurons on: those whose embeddings their keys fit best (paper 1, Eq. 6, an embedding alone).

What a neuron promotes says what it does; its key says when. ``L13N1012`` of Gemma 3 270M promotes "Football", and it is
switched on by "football", "rugby", "soccer".
"""

from typing import Any

import torch

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.knowledge.vocabulary import model_of, require_k
from tl_neuron_attr.model.stream_keys import embeddings, stream_keys
from tl_neuron_attr.numerics.ranked_tokens import ranked_embeddings
from tl_neuron_attr.results.key_token_lists import KeyTokens
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.results.token_text import token_texts


@typechecked
@torch.no_grad()
def key_tokens(cache_or_model: Any, neurons: Neurons, k: int = 10) -> KeyTokens:
    """Return the ``k`` tokens that switch each neuron on most, and off: by their embeddings, without a prompt.

    Tokens are ranked by the pre-activation that the neuron would have if the stream held the token's embedding alone,
    through the norm in front of it (paper 1, Eq. 6), without positions and biases. Of a gated MLP neuron the gate is
    taken, which opens or shuts; an attention neuron has the sign of its coefficient, and of latent attention the scale
    of the inner norm, each token's own, is left out. Keys of deep layers respond less to embeddings than to what
    earlier layers wrote: :func:`~tl_neuron_attr.query_neurons` says what that was.

    Args:
        cache_or_model: An ``ActivationCache``, or the model.
        neurons: The neurons, of one prompt or of a batch.
        k: How many tokens.

    Raises:
        ValueError: If ``k`` is not between 1 and the size of the vocabulary, or the model's stream does not begin with
            its embeddings (BLOOM, OPT-350M).
        IndexError: If a neuron is not of this model.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> _, cache = model.run_with_cache("Tim Duncan plays the sport of")
        >>> found = key_tokens(cache, tna.value_neurons(cache, " basketball", k=3), k=2)
        >>> found.labels[2], found.on[2]
        ('L1H5D10@5', ('career', 'sport'))
    """
    model = model_of(cache_or_model)
    require_k(model, k)
    if not len(neurons):
        return KeyTokens((), (), ())
    keys = stream_keys(model, neurons)
    on, off = ranked_embeddings(embeddings(model), keys.vectors, k, centred=keys.centred)
    return KeyTokens(tuple(neurons.flat_labels), token_texts(model, on.tolist()), token_texts(model, off.tolist()))
