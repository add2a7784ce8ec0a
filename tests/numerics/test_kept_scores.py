"""Scores that are kept are those found the first time; only new neurons are scored."""

import pytest
import torch

from tests import architectures
from tl_neuron_attr.model.scored import scored
from tl_neuron_attr.numerics import kept_scores as module
from tl_neuron_attr.numerics.exact_scores import exact_scores
from tl_neuron_attr.numerics.kept_scores import KeptScores, kept_scores


@torch.no_grad()
@pytest.mark.parametrize("best", [0, 3])
def test_a_neuron_is_scored_once(best, monkeypatch):
    _, cache = architectures.run("llama", batch=2)
    q = scored(cache, 5)
    increases, sublayers = q.increases(("mlp",)), list(q.stream.sublayers(q.places, ("mlp",)))
    rows, flat = torch.tensor([0, 1, 0, 1]), torch.tensor([3, 3, 100, 239])
    expected = torch.full((4, best), -1)
    scores = exact_scores(increases, sublayers, rows, flat, max_bytes=1 << 20, promoted=expected if best else None)
    counted = []
    monkeypatch.setattr(
        module, "exact_scores", lambda *args, **more: counted.append(len(args[2])) or exact_scores(*args, **more)
    )
    kept: KeptScores = {}
    for chosen in ([0, 1], [3, 1, 0, 2], [2, 3]):
        tokens = torch.full((len(chosen), best), -1)
        noted = tokens if best else None
        found = kept_scores(kept, increases, sublayers, rows[chosen], flat[chosen], max_bytes=1 << 20, promoted=noted)
        torch.testing.assert_close(found, scores[chosen], atol=1e-12, rtol=0)
        assert torch.equal(tokens, expected[chosen])
    assert counted == [2, 2]
