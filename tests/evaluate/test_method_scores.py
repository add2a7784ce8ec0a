"""Scores of the user stand beside the methods; what is no score is refused."""

import pytest
import torch

from tests import architectures
from tests.evaluate.test_faithfulness import PROMPTS, TARGETS
from tl_neuron_attr.evaluate import faithfulness
from tl_neuron_attr.knowledge.baselines import baseline_scores
from tl_neuron_attr.model.intervene import edit


@pytest.fixture(scope="module")
def model():
    return architectures.build("llama", dtype=torch.float32)


def test_a_score_of_ones_own_is_measured_beside_the_others(model):
    def smallest(model, cache, tokens, target):
        return -baseline_scores(cache, target, score="coefficient")

    found = faithfulness(
        model, PROMPTS, TARGETS, scores=["coefficient"], k=3, own_scores={"mine": smallest}, progress=False
    )
    rows = found.frame.set_index(["prompt", "score"])["log_prob"]
    w = model.to_single_token(TARGETS[0])
    _, cache = model.run_with_cache(PROMPTS[0])
    least = baseline_scores(cache, w, score="coefficient")[0].flatten().topk(3, largest=False).indices
    with edit(model, [("mlp", int(j) // 80, int(j) % 80) for j in least]), torch.no_grad():
        expected = model(PROMPTS[0])[0, -1].log_softmax(-1)[w]
    assert rows[0, "mine"] == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(
    "own, message",
    [
        ({"rank": lambda *run: None}, "own_scores: the name 'rank' is taken by a method"),
        ({"mine": lambda *run: [1.0]}, r"own_scores must give a tensor of shape \(1, 3, 80\), .* got list"),
        ({"mine": lambda *run: torch.zeros(1, 3, 79)}, r"got \(1, 3, 79\)"),
        ({"mine": lambda *run: torch.full((1, 3, 80), float("nan"))}, "own_scores gave NaN"),
    ],
)
def test_a_score_that_is_none_is_refused(model, own, message):
    with pytest.raises(ValueError, match=message):
        faithfulness(model, PROMPTS[:1], TARGETS[:1], scores=["coefficient"], own_scores=own, progress=False)
