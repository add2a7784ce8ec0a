"""A cache of one position's patterns refuses what it does not hold."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.model.stream import Stream


@pytest.fixture(scope="module")
def cache():
    return tna.run(architectures.build("llama"), architectures.prompts(), pos=torch.tensor([6, -2]))


def test_the_position_is_counted_from_the_start(cache):
    assert cache.pattern_pos.tolist() == [6, 5]
    assert cache.holds() == "this cache of tna.run holds attention patterns at position [6, 5] only"


@pytest.mark.parametrize("function", [tna.attribute_heads, tna.attribute_attn_neurons, tna.value_neurons])
def test_another_position_is_refused(cache, function):
    with pytest.raises(ValueError, match=r"patterns at position .6, 5. only, not at .6, 6.: run again with pos="):
        function(cache, 5)


def test_whole_patterns_are_refused(cache):
    with pytest.raises(ValueError, match=r"only: whole patterns are in a cache of model.run_with_cache"):
        Stream(cache).pattern(0)
