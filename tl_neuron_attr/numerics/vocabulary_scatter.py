"""How the unembedding vectors lie about their mean: facts of ``W_U`` alone, the same for every prompt.

The scatter matrix takes as many multiplications as reading out one vector per dimension, so it is kept with the model.
What is kept is used only while the length of every token's vector is, bit for bit, what it was: weights can be edited
in ways that leave no other trace.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr.numerics.increase import WIDTH
from tl_neuron_attr.numerics.readout import Readout

_BLOCKS = 4
"""Blocks of rows of the scatter matrix, which is symmetric: of each only what is not below the diagonal."""


def squared_lengths(readout: Readout) -> Float[Tensor, "d_vocab"]:
    """Return the squared length of every unembedding vector.

    Examples:
        >>> from tl_neuron_attr.numerics.readout import Norm
        >>> norm = Norm(torch.ones(2), torch.ones(1), centred=False)
        >>> squared_lengths(Readout(torch.tensor([[3.0, 1.0], [4.0, 0.0]]), norm, torch.zeros(2), torch.zeros(2)))
        tensor([25.,  1.])
    """
    return torch.linalg.vector_norm(readout.W_U, dim=0, dtype=readout.dtype).square_()


def vocabulary_scatter(readout: Readout) -> tuple[Float[Tensor, "d_model"], Float[Tensor, "d_model d_model"]]:
    """Return the mean unembedding vector, and the sum of the outer products of all vectors' distances from it."""
    lengths, kept = squared_lengths(readout), readout.kept
    if "lengths" not in kept or not _equal(kept["lengths"], lengths):
        mean, scatter = _scatter(readout)
        kept.update(lengths=lengths, mean=mean, scatter=scatter)
    return kept["mean"], kept["scatter"]


def _equal(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors hold the same numbers, on the same device; a model may have been moved or cast."""
    return a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)


def _scatter(readout: Readout) -> tuple[Float[Tensor, "d_model"], Float[Tensor, "d_model d_model"]]:
    mean = torch.stack([W_U.sum(1) for _, W_U in readout.chunks(WIDTH)]).sum(0) / readout.d_vocab
    scatter, step = mean.new_zeros(len(mean), len(mean)), -(-len(mean) // _BLOCKS)
    for _, W_U in readout.chunks(WIDTH):
        centred = W_U - mean[:, None]
        for first in range(0, len(mean), step):
            scatter[first : first + step, first:] += centred[first : first + step] @ centred[first:].T
    return mean, scatter.triu() + scatter.triu(1).T
