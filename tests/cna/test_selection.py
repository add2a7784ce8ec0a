"""Neurons selected among those of a comparison: roots, and random ones of each case."""

import pytest
import torch

from tl_neuron_attr.cna.selection import random_neurons, roots, selected
from tl_neuron_attr.results.neurons import Neurons

LAYER, INDEX = torch.tensor([[4, 2, 2, 7], [3, 5, 3, 9]]), torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7]])
SCORE = torch.tensor([[9.0, 1.0, 2.0, 8.0], [-1.0, 6.0, -3.0, 5.0]])


def neurons():
    return Neurons.of_mlp(LAYER, INDEX, coefficient=10 * SCORE, score=SCORE)


def coefficients(silent=()):
    coefficient = torch.ones(3, 2, 6)
    for at in silent:
        coefficient[at] = 0
    return coefficient * torch.arange(1.0, 37).view(3, 2, 6)


def test_a_root_is_the_best_neuron_of_the_lowest_layer():
    assert roots(neurons()).tolist() == [2, 0]


def test_each_case_keeps_its_own_neurons():
    found = selected(neurons(), torch.tensor([[3, 0], [1, 1]]))
    assert found.labels == [["L7N3", "L4N0"], ["L5N5", "L5N5"]]
    assert found.score.tolist() == [[8.0, 9.0], [6.0, 6.0]]
    assert found.coefficient.tolist() == [[80.0, 90.0], [60.0, 60.0]]


def test_random_neurons_are_active_allowed_and_each_once():
    silent, allowed = [(0, 0, 1), (0, 1, 5)], torch.ones(2, 6, dtype=torch.bool)
    allowed[1, 0] = False
    compared = coefficients(silent)
    found = random_neurons(compared, allowed, 9, [0, 1, 2], 0)
    for case, labels in enumerate(found.labels):
        assert len(set(labels)) == 9
        gone = {"L1N0"} | ({"L0N1", "L1N5"} if case == 0 else set())
        assert set(labels) <= {f"L{la}N{i}" for la in range(2) for i in range(6)} - gone
    at = (torch.arange(3)[:, None], found.layer, found.index)
    assert torch.equal(found.coefficient, compared[at])


def test_a_draw_depends_on_the_case_and_the_seed_alone():
    every = torch.ones(2, 6, dtype=torch.bool)
    found = random_neurons(coefficients(), every, 4, [5, 6, 7], 1)
    assert random_neurons(coefficients(), every, 4, [7, 5, 6], 1).labels == [found.labels[i] for i in (2, 0, 1)]
    assert random_neurons(coefficients(), every, 4, [5, 6, 7], 2).labels != found.labels


def test_every_neuron_is_drawn_about_as_often():
    every, counts = torch.ones(2, 6, dtype=torch.bool), torch.zeros(2, 6)
    for seed in range(100):
        found = random_neurons(coefficients(), every, 3, [0, 1, 2], seed)
        counts.index_put_((found.layer.flatten(), found.index.flatten()), torch.tensor(1.0), accumulate=True)
    assert counts.sum() == 900
    assert counts.min() > 45 and counts.max() < 105, "75 are expected of each, give or take 8"


@pytest.mark.parametrize("layer", [0, 1])
def test_where_few_are_allowed_all_of_them_are_drawn(layer):
    allowed = torch.zeros(2, 6, dtype=torch.bool)
    allowed[layer] = True
    found = random_neurons(coefficients(), allowed, 6, [0, 1, 2], 0)
    assert (found.layer == layer).all() and all(sorted(row) == list(range(6)) for row in found.index.tolist())
