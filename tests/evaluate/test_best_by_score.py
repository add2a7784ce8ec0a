"""Searches by bounds against sorting the score of every neuron."""

import itertools

import pytest
import torch

from tests import architectures, oracle
from tl_neuron_attr.evaluate.best_by_score import SEARCHED, best_by_score
from tl_neuron_attr.knowledge.baselines import baseline_scores


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "neox_parallel"])
@pytest.mark.parametrize("score", SEARCHED)
def test_the_best_are_the_first_of_all_by_their_score(name, score):
    model = architectures.build(name)
    _, cache = model.run_with_cache(architectures.prompts())
    target = torch.tensor([[5], [5]])
    every = baseline_scores(cache, 5, score=score).flatten(1)
    width = model.blocks[0].mlp.W_out.shape[0]
    for k in (1, 20, 100):
        found = best_by_score(cache, target, score, k)
        expected = every.topk(k)
        assert torch.equal(found.layer * width + found.index, expected.indices)
        torch.testing.assert_close(found.score, expected.values, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("score", SEARCHED)
def test_of_an_answer_the_best_are_the_first_by_the_sums_over_its_tokens(score):
    model, tokens = architectures.build("llama"), architectures.prompts()
    target = torch.tensor([[5, 17], [11, 3]])
    rows = torch.cat([tokens, target[:, :-1]], dim=1)
    _, cache = model.run_with_cache(rows)
    each = [baseline_scores(cache, target[:, i], score="log_prob_increase", pos=rows.shape[1] - 2 + i) for i in (0, 1)]
    if score == "log_prob":
        each = [baseline_scores(cache, target[:, i], score=score, pos=rows.shape[1] - 2 + i) for i in (0, 1)]
    every = sum(each)
    if score == "prob_increase":
        base = torch.zeros(2, architectures.LAYERS)
        for row, layer, i in itertools.product((0, 1), range(architectures.LAYERS), (0, 1)):
            pos = rows.shape[1] - 2 + i
            log_p = oracle.log_probs(cache, row, pos, oracle.base(cache, layer, "mlp", row, pos))
            base[row, layer] += log_p.flatten()[target[row, i]]
        every = base.exp()[..., None] * every.expm1()
    found, expected = best_by_score(cache, target, score, 20), every.flatten(1).topk(20)
    assert torch.equal(found.layer * every.shape[2] + found.index, expected.indices)
    torch.testing.assert_close(found.score, expected.values.to(found.score), atol=1e-7, rtol=1e-5)
