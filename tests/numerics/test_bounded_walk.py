"""The walk ends when the best are certain, and no sooner."""

import torch

from tl_neuron_attr.numerics.bounded_walk import BoundedWalk
from tl_neuron_attr.numerics.narrow_bounds import NarrowBounds


def test_a_score_within_the_rounding_of_the_next_bound_is_not_certain():
    eps = torch.finfo(torch.float64).eps
    for ahead, certain in ((100 - 400 * eps, False), (99.9, True)):
        bounds = torch.tensor([100.0, 100.0, 100.0, ahead], dtype=torch.float64)
        walk = BoundedWalk.start(bounds, torch.zeros(4, dtype=torch.bool), 1, 0)
        assert not walk.certified()
        assert walk.next().sort().values.tolist() == [0, 1, 2]
        walk.take(torch.tensor([100.0, 99.0, 99.0], dtype=torch.float64), torch.zeros(3, 0, dtype=torch.long))
        assert walk.certified() == certain


def test_what_was_scored_first_out_of_order_is_not_scored_again(monkeypatch):
    """The likeliest are those of the lowest bounds; once they are scored, the walk goes on with all others."""
    bounds, likely = torch.arange(10.0, 0.0, -1.0), torch.arange(10.0)
    walk = BoundedWalk.start(bounds, torch.zeros(10, dtype=torch.bool), 2, 0)
    walk.begin_with(likely)
    assert not walk.certified()
    none = torch.zeros(4, 0, dtype=torch.long)
    walk.take(-walk.next().double(), none)
    assert walk.flat.sort().values.tolist() == [6, 7, 8, 9]
    monkeypatch.setattr(NarrowBounds, "pays", 100)  # so that the bounds stay as they are
    walk.narrow(object.__new__(NarrowBounds), 0, torch.zeros(10))
    assert not walk.certified()
    chosen = walk.next()
    assert chosen.tolist() == [0, 1, 2, 3, 4, 5]
    walk.take(-chosen.double(), none[:1].expand(6, 0))
    assert walk.certified() and walk.best()[0].tolist() == [0, 1] and walk.evaluated == 10
