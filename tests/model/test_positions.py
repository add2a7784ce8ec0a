"""Positions, counted from either end, for all prompts or each."""

import pytest
import torch

from tests import architectures
from tl_neuron_attr.model.positions import Positions, from_start
from tl_neuron_attr.model.stream import Stream


@pytest.mark.parametrize("pos, expected", [
    (-1, [6]), (0, [0]), (6, [6]), (-7, [0]),
    (torch.tensor([6, -7, 3]), [6, 0, 3]), (torch.tensor([5]), [5]),
])  # fmt: skip
def test_positions_are_counted_from_the_start(pos, expected):
    assert from_start(pos, batch=3, length=7).tolist() == expected


@pytest.mark.parametrize("pos", [7, -8, torch.tensor([0, 7, 0]), torch.tensor([0, 0, -8])])
def test_positions_outside_the_prompts_are_named(pos):
    with pytest.raises(IndexError, match=r"pos must lie between -7 and 6 for prompts of 7 tokens, got"):
        from_start(pos, batch=3, length=7)


def test_what_is_not_one_integer_for_all_or_each_is_refused():
    with pytest.raises(ValueError, match="pos must be an int or one int per prompt, of 3 prompts, got"):
        from_start(torch.tensor([1, 2]), batch=3, length=7)


def test_a_stream_is_read_at_its_places():
    _, cache = architectures.run("gpt2")
    stream = Stream(cache)
    places = Positions(torch.tensor([1, 0, 1]), torch.tensor([2, 6, 0]))
    read = stream.at("blocks.1.hook_resid_pre", places)
    for i, (row, pos) in enumerate(((1, 2), (0, 6), (1, 0))):
        assert torch.equal(read[i], cache["blocks.1.hook_resid_pre"][row, pos])
    some = places.select(torch.tensor([2, 0]))
    assert (len(some), some.row.tolist(), some.pos.tolist()) == (2, [1, 1], [0, 2])
    assert stream.positions(-1).pos.tolist() == [6, 6] and stream.last.row.tolist() == [0, 1]
