"""Scores by rank for many prompts in one pass, against ranks counted one neuron at a time."""

import pytest
import torch

from tests import architectures
from tl_neuron_attr.evaluate import rank_scores
from tl_neuron_attr.evaluate.rank_scores import BY_RANK, RankScores
from tl_neuron_attr.model.batches import answer_batches
from tl_neuron_attr.model.scored import scored_predictions

PROMPTS = [torch.tensor(ids) for ids in ([4, 8, 15], [16, 23, 42], [4, 8, 15, 16], [23, 42, 4, 8])]


def counted(model, layer, index, target):
    """One over the target's place among all tokens, by the logits of the neuron's direction without biases."""
    direction = model.W_out[layer, index] * model.ln_final.w
    logits = [float(direction @ model.W_U[:, token]) for token in range(model.cfg.d_vocab)]
    return 1 / (1 + sum(logit > logits[target] for logit in logits))


@pytest.mark.parametrize("answers", [[(3,), (9,), (9,), (7,)], [(3, 5), (9, 3), (9, 9), (7, 3)]])
@pytest.mark.parametrize("max_bytes", [1, 2**20])
@torch.no_grad()
def test_they_are_ranks_counted_by_hand_whether_all_targets_fit_or_none(answers, max_bytes, monkeypatch):
    model = architectures.build("llama")
    batches = list(answer_batches(PROMPTS, answers, batch_size=2))
    passes = []
    read = rank_scores.inverse_ranks
    monkeypatch.setattr(rank_scores, "inverse_ranks", lambda *a, **k: passes.append(1) or read(*a, **k))
    ranks = RankScores(batches, max_bytes)
    for batch in batches:
        _, cache = model.run_with_cache(batch.tokens)
        q = scored_predictions(cache, batch.target)
        for score in BY_RANK:
            found = ranks.scores(q, score)
            for row, of in enumerate(batch.target.tolist()):
                for layer, index in ((0, 0), (1, 41), (2, 79)):
                    post = cache["post", layer][row, -len(of) :, index].abs()
                    weights = post.tolist() if score == "coefficient_rank" else [1.0] * len(of)
                    by_hand = [w * counted(model, layer, index, t) for w, t in zip(weights, of, strict=True)]
                    assert float(found[row, layer, index]) == pytest.approx(sum(by_hand), abs=1e-9)
    assert len(passes) == model.cfg.n_layers * (1 if max_bytes > 1 else len(batches))


def test_a_shard_without_prompts_that_can_be_run_has_no_targets():
    assert RankScores([])
