"""The bound behind the search: no change lies above it."""

from dataclasses import replace

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.cna.compare_neurons import compare_neurons, other_run
from tl_neuron_attr.numerics import narrow_bounds, topk_of_change
from tl_neuron_attr.numerics.bounds import psi_bounds
from tl_neuron_attr.numerics.narrow_bounds import NarrowBounds
from tl_neuron_attr.numerics.topk_of_change import certified_topk_of_change


@pytest.fixture(scope="module")
def runs():
    model = architectures.build("llama")
    tokens = architectures.prompts()
    _, cache = model.run_with_cache(tokens)
    with tna.ablate(model, [(1, 2)]), torch.no_grad():
        _, other = model.run_with_cache(tokens)
    mine = tna.scored(cache, 5)
    pair = (mine, other_run(mine, other, "mlp"))
    every = compare_neurons(cache, other, 5).change.flatten(1)
    return [(q.increases(("mlp",)), list(q.checked_sublayers(("mlp",)))) for q in pair], every


@torch.no_grad()
def test_no_change_is_above_its_bound(runs):
    (first, other), every = runs

    def jensen(run):
        gradients = [
            i.readout.norm.adjoint(i.readout.columns(i.target) - i.mean) * i.readout.gain[:, None] for i in run[0]
        ]
        return torch.cat([s.project_onto(g).flatten(1) for s, g in zip(run[1], gradients, strict=True)], dim=1)

    bound = jensen(first) - jensen(other) + torch.cat(psi_bounds(*other), dim=1)
    assert bool((every <= bound + 1e-9).all())


@pytest.mark.parametrize("pays", [0, 10_000])  # with all bounds narrowed, and with none
@torch.no_grad()
def test_every_k_gives_the_first_of_the_same_order(runs, pays, monkeypatch):
    monkeypatch.setattr(NarrowBounds, "pays", pays)
    monkeypatch.setattr(narrow_bounds, "_FEW", 1)
    (first, other), every = runs
    for k in (1, 7, every.shape[1]):
        found = certified_topk_of_change(first, other, k)
        assert torch.equal(found.flat, every.sort(descending=True, stable=True).indices[:, :k])
        assert found.evaluated.tolist() <= [every.shape[1]] * 2


@torch.no_grad()
def test_the_search_ends_with_the_first_neuron_whose_bound_is_beaten(runs, monkeypatch):
    """Scored one at a time: first the likeliest, then as many as have a bound above the k-th best change so far.

    Below the head that was zeroed nothing has changed, and the first of these neurons stand for all.
    """
    monkeypatch.setattr(NarrowBounds, "pays", 10_000)
    for name, value in (("FIRST_SPARE", 0), ("FEWEST", 1), ("MOST", 1)):
        monkeypatch.setattr(topk_of_change, name, value)
    (first, other), every = runs
    likely, k = topk_of_change._jensen(first) - topk_of_change._jensen(other), 3
    bounds = likely + torch.cat(psi_bounds(*other), dim=1)
    below = first[1][0].width
    assert not every[:, :below].any() and every[:, below:].any()
    likely[:, :below] = bounds[:, :below] = -torch.inf
    evaluated = certified_topk_of_change(first, other, k).evaluated.tolist()
    for row in range(2):
        scored = [*likely[row].topk(k).indices.tolist(), *range(k)]
        rest = [i for i in bounds[row].argsort(descending=True).tolist() if i not in scored]
        while rest and bounds[row, rest[0]] >= sorted(every[row, scored].tolist())[-k]:
            scored.append(rest.pop(0))
        assert k < len(scored) == evaluated[row] < every.shape[1]


def test_a_change_within_the_rounding_of_the_next_bound_is_not_certain():
    change, eps = torch.tensor([100.0, 99.0], dtype=torch.float64), torch.finfo(torch.float64).eps
    for ahead, certain in ((100 - 400 * eps, False), (99.9, True)):
        assert topk_of_change._certain(change, torch.tensor(ahead, dtype=torch.float64), 1) == certain


@torch.no_grad()
def test_neurons_that_write_elsewhere_have_changed_though_all_they_read_is_the_same(runs):
    (first, _), _ = runs
    other = [*first[1]]
    other[1] = replace(other[1], directions=-other[1].directions)
    found = certified_topk_of_change(first, (first[0], other), 5)
    expected = topk_of_change._every(first, 2**30) - topk_of_change._every((first[0], other), 2**30)
    assert torch.equal(found.flat, expected.sort(descending=True, stable=True).indices[:, :5])
    assert bool((found.score > 0).all())
