"""Searches by bounds against sorting the score of every neuron."""

import pytest
import torch

from tests import architectures
from tl_neuron_attr.evaluate.best_by_score import SEARCHED, best_by_score
from tl_neuron_attr.knowledge.baselines import baseline_scores


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "neox_parallel"])
@pytest.mark.parametrize("score", SEARCHED)
def test_the_best_are_the_first_of_all_by_their_score(name, score):
    model = architectures.build(name)
    _, cache = model.run_with_cache(architectures.prompts())
    every = baseline_scores(cache, 5, score=score).flatten(1)
    width = model.blocks[0].mlp.W_out.shape[0]
    for k in (1, 20, 100):
        found = best_by_score(cache, 5, score, k)
        expected = every.topk(k)
        assert torch.equal(found.layer * width + found.index, expected.indices)
        torch.testing.assert_close(found.score, expected.values, atol=1e-9, rtol=1e-6)
