"""Indices are refused with their name and the valid range."""

import pytest

from tl_neuron_attr.model.within import within


def test_an_index_is_not_counted_from_the_end():
    within("x", 2, 3)
    for value in (-1, 3):
        with pytest.raises(IndexError, match=f"x must lie between 0 and 2, got {value}"):
            within("x", value, 3)
