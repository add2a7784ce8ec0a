import torch

from tests import synthetic
from tl_neuron_attr.numerics.flat_index import best_of, locate


def test_locate_names_sublayer_neuron_and_source():
    _, subs = synthetic.case(5)
    everything = torch.arange(sum(s.width * s.sources for s in subs))
    expected = [(i, n, s) for i, sub in enumerate(subs) for n in range(sub.width) for s in range(sub.sources)]
    assert list(zip(*(t.tolist() for t in locate(subs, everything)), strict=True)) == expected


def test_best_of_breaks_ties_by_place():
    assert best_of(torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0]), 4).tolist() == [1, 3, 2, 4]
