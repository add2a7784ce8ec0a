"""How far a score can lie below Jensen's bound: upper bounds of ``psi = log E_p[exp(x - E_p[x])]``.

For a neuron that writes ``v``, every logit contribution lies within ``M = |v| * reach`` of its mean and has a variance
of at most ``|v|**2 * variance``, where ``reach`` and ``variance`` belong to the base distribution alone. Then

    psi <= M                                          the largest value bounds the mean of exp
    psi <= M**2 / 2                                   Hoeffding, for a range of 2 M
    psi <= (variance / reach**2) * (e**M - 1 - M)     Bennett
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr.numerics.increase import Increase
from tl_neuron_attr.numerics.sublayer import Sublayer


def psi(increase: Increase, sublayer: Sublayer, index: int) -> Float[Tensor, "batch neuron_source"]:
    """The bound for every neuron of ``sublayer``, whose streams are rows ``index * batch`` onwards, in nats."""
    coefficients = sublayer.scaled_coefficients()
    batch = coefficients.shape[0]
    rows = slice(index * batch, (index + 1) * batch)
    reach, variance = spread(increase, rows)
    norms = increase.readout.norm.apply_unscaled(sublayer.unscaled_directions()).norm(dim=-1)
    length = (coefficients.abs() * norms[:, None]).flatten(1)
    M = length * reach[:, None]
    bennett = (variance / reach.square())[:, None] * (M.expm1() - M)
    return torch.minimum(torch.minimum(M, M.square() / 2), bennett)


def spread(increase: Increase, rows: slice) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """Largest distance of an unembedding vector from the mean one, and a bound on their variance in any direction.

    The variance in one direction is at most the sum over all of them, the mean squared distance.
    """
    readout, p = increase.readout, increase.p[rows]
    mean = readout.embed(p)
    squares = readout.column_squares() - 2 * readout.unembed(mean) + mean.square().sum(-1, keepdim=True)
    squares = squares.clamp_min(0)
    gain = readout.gain[rows]
    return gain.abs() * squares.max(-1).values.sqrt(), gain.square() * (p * squares).sum(-1)
