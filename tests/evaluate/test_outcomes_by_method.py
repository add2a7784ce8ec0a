"""The outcomes of a batch, one condition after another."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.evaluate.method_scores import UNTOUCHED, named_methods
from tl_neuron_attr.evaluate.outcomes_by_method import outcomes_by_method, require_neurons
from tl_neuron_attr.evaluate.rank_scores import RankScores
from tl_neuron_attr.model.batches import answer_batches

TOKENS, TARGETS = architectures.prompts(), [(3,), (9,)]


@torch.no_grad()
def test_untouched_comes_first_and_then_each_method_with_few_neurons_before_many():
    model = architectures.build("llama", dtype=torch.float32)
    (batch,) = answer_batches(list(TOKENS), TARGETS, batch_size=2)
    methods = named_methods(["coefficient", "norm"], {})
    found = list(outcomes_by_method(model, batch, methods, [1, 4], 0, RankScores([batch])))
    assert [(name, k) for name, k, _ in found] == [
        (UNTOUCHED, 0), ("coefficient", 1), ("coefficient", 4), ("norm", 1), ("norm", 4),
    ]  # fmt: skip
    _, cache = model.run_with_cache(TOKENS)
    scores = tna.baseline_scores(cache, torch.tensor([3, 9]), score="coefficient")
    for row, target in enumerate((3, 9)):
        best = divmod(int(scores[row].flatten().argmax()), scores.shape[-1])
        with tna.ablate(model, [("mlp", *best)]):
            expected = model(TOKENS[row : row + 1])[0, -1].log_softmax(-1)[target]
        torch.testing.assert_close(found[1][2].log_prob[row], expected, atol=1e-5, rtol=0)


def test_more_neurons_than_there_are_are_refused():
    model = architectures.build("llama")
    require_neurons(model, [240])
    with pytest.raises(ValueError, match="240"):
        require_neurons(model, [3, 241])
