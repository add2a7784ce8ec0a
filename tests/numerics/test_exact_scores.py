"""Exact scores of some neurons of an answer against the scores of every neuron."""

import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.numerics.exact_scores import ResultPlaces


@torch.no_grad()
def test_the_scores_of_some_neurons_are_those_among_all():
    model = architectures.build("llama")
    q = tna.answer(model, architectures.prompts(1, 4)[0], tna.any_of(tna.Answer((5, 17)), tna.Answer((9, 3))))
    increases, sublayers = q.increases(("mlp",)), list(q.stream.sublayers(q.places, ("mlp",)))
    flat = torch.tensor([3, 100, 101, 239])
    scores, by_place = ResultPlaces.of(increases, sublayers, 0, q.sums).scored(increases, flat, max_bytes=1 << 20)
    torch.testing.assert_close(scores, tna.attribute_mlp_neurons(q).flatten()[flat], atol=1e-9, rtol=0)
    assert by_place.shape == (4, 4)
