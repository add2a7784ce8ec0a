"""How far a score can lie below Jensen's bound: upper bounds of ``psi = log E_p[exp(x - E_p[x])]``.

For a neuron that writes ``v``, every logit contribution lies within ``M = |v| * range`` of its mean and has a variance
of at most ``|v|**2 * variance``, where ``range`` and ``variance`` belong to the base distribution alone. Then

    psi <= M                                          the largest value bounds the mean of exp
    psi <= M**2 / 2                                   Hoeffding, for values within M of their mean on either side
    psi <= (variance / range**2) * (e**M - 1 - M)     Bennett
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr.numerics.increase import Increase, distributions, mean_unembeddings
from tl_neuron_attr.numerics.sublayer import Sublayer
from tl_neuron_attr.numerics.vocabulary_scatter import squared_lengths

_SMALL = 0.1
"""Where the difference in Bennett's factor would cancel: below it, a series that is an upper bound."""


def psi_bounds(
    increases: Sequence[Increase], sublayers: Sequence[Sublayer]
) -> list[Float[Tensor, "batch neuron_source"]]:
    """Return the bound for every neuron of each sublayer, in nats."""
    return [
        smallest_psi(_lengths(i, s), furthest[:, None], variance[:, None])
        for i, s, (furthest, variance) in zip(increases, sublayers, ranges(increases), strict=True)
    ]


def ranges(increases: Sequence[Increase]) -> list[tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]]:
    """Return the largest distance of an unembedding vector from the mean one, and a bound on their variance.

    The variance in any one direction is at most the sum over all of them, the mean squared distance. All base streams
    that have not been measured are in one pass over ``W_U``.
    """
    new = [each for each in increases if "furthest" not in each.known]
    if new:
        _measure(new)
    return [(each.known["furthest"], each.known["variance"]) for each in increases]


def _measure(increases: Sequence[Increase]) -> None:
    mean_unembeddings(increases)
    readout = increases[0].readout
    means, lengths = torch.cat([i.mean for i in increases]), squared_lengths(readout)
    furthest, variance = means.new_zeros(len(means)), means.new_zeros(len(means))
    for tokens, W_U, p in distributions(increases):
        squares = lengths[tokens] - 2 * (means @ W_U) + means.square().sum(-1, keepdim=True)
        squares.clamp_min_(0)
        furthest = torch.maximum(furthest, squares.amax(-1))
        variance += (p * squares).sum(-1)
    gain = torch.cat([i.readout.gain for i in increases]).abs()
    sizes = [len(i.base) for i in increases]
    measured = zip((gain * furthest.sqrt()).split(sizes), (gain.square() * variance).split(sizes), strict=True)
    for each, (own_furthest, own_variance) in zip(increases, measured, strict=True):
        each.known |= {"furthest": own_furthest, "variance": own_variance}


def _lengths(increase: Increase, sublayer: Sublayer) -> Float[Tensor, "batch neuron_source"]:
    """Return the length of what each neuron wrote, after the final norm's weight."""
    norms = increase.readout.norm.apply_unscaled(sublayer.unscaled_directions()).norm(dim=-1)
    return (sublayer.scaled_coefficients().abs() * norms[:, None]).flatten(1)


def smallest_psi(length: Tensor, furthest: Tensor, variance: Tensor) -> Tensor:
    """Return the smallest of the three bounds for vectors of a length, in nats.

    Examples:
        >>> one = torch.tensor(1.0)
        >>> float(smallest_psi(one, one, one))  # Hoeffding's
        0.5
    """
    M = length * furthest
    bennett = length.square() * variance * bennett_factor(M)
    return torch.minimum(torch.minimum(M, M.square() / 2), bennett)


def bennett_factor(largest: Tensor) -> Tensor:
    """Return ``phi = (e**M - 1 - M) / M**2``: for no ``y`` of at most ``M`` is ``e**y`` above ``1 + y + phi * y**2``.

    Examples:
        >>> bennett_factor(torch.tensor([0.0, 1.0]))  # 1/2 at zero, e - 2 at one
        tensor([0.5000, 0.7183])
    """
    by_series = 0.5 + largest / 6 + largest.square() / 12  # the remainder, M**2/24 e**M, is below the last term
    return torch.where(largest < _SMALL, by_series, (largest.expm1() - largest) / largest / largest)
