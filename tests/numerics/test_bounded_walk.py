"""The walk ends when the best are certain, and no sooner."""

import torch

from tl_neuron_attr.numerics.bounded_walk import BoundedWalk


def test_a_score_within_the_rounding_of_the_next_bound_is_not_certain():
    eps = torch.finfo(torch.float64).eps
    for ahead, certain in ((100 - 400 * eps, False), (99.9, True)):
        bounds = torch.tensor([100.0, 100.0, 100.0, ahead], dtype=torch.float64)
        walk = BoundedWalk.start(bounds, torch.zeros(4, dtype=torch.bool), 1, 0)
        assert not walk.certified()
        assert walk.next().sort().values.tolist() == [0, 1, 2]
        walk.take(torch.tensor([100.0, 99.0, 99.0], dtype=torch.float64), torch.zeros(3, 0, dtype=torch.long))
        assert walk.certified() == certain
