"""Rows of prompts and answers, and what is predicted where."""

import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.model.answer_runs import AnswerRuns

PROMPTS = architectures.prompts(2, 4)


def test_a_single_token_runs_the_prompt_as_it_is_and_an_answer_all_but_its_last():
    model = architectures.build("llama")
    targets = [tna.any_of(3, tna.Answer((5, 17, 5))), 7]
    runs = AnswerRuns.of(model, PROMPTS, targets, at=torch.tensor([2, 1]), contrast=[tna.Answer((5, 17, 5)), 2])
    assert [runs.row(i).tolist() for i in (0, 1)] == [[*PROMPTS[0, :3].tolist(), 5, 17], PROMPTS[1].tolist()]
    assert runs.prompt == (0, 1) and runs.beginnings == (3, 4) and runs.lengths == (5, 4)
    assert runs.most_tokens == 3 and AnswerRuns.of(model, PROMPTS, 7, at=torch.tensor([2, 1])).most_tokens == 1
    assert runs.places.row.tolist() == [0] * 4 + [0] * 3 + [1, 1]
    assert runs.places.pos.tolist() == [2, 2, 3, 4, 2, 3, 4, 1, 1]
    assert [runs.places_in(i).tolist() for i in (0, 1)] == [[0, 1, 2, 3, 4, 5, 6], [7, 8]]


@torch.no_grad()
def test_log_probs_are_the_scored_caches():
    model = architectures.build("llama")
    targets = [tna.any_of(tna.Answer((4, 2)), tna.Answer((5, 17, 5))), tna.Answer((9, 9, 9, 9))]
    runs = AnswerRuns.of(model, PROMPTS, targets, at=torch.tensor([3, 3]), contrast=8)
    expected = tna.answer(model, list(PROMPTS), targets, contrast=tna.Answer((8,))).log_prob
    torch.testing.assert_close(runs.log_probs(model(runs.tokens)), expected, atol=1e-6, rtol=0)
