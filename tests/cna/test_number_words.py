"""Numbers in words."""

import pytest

from tl_neuron_attr.cna.number_words import in_words


@pytest.mark.parametrize(
    "n, words",
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (99, "ninety-nine"),
        (100, "one hundred"),
        (905, "nine hundred and five"),
    ],
)
def test_numbers_in_words(n, words):
    assert in_words(n) == words
