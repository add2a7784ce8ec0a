"""Functions that run a model, from several threads at once: each gets what it gets alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tests.incontext.test_icl_batches import tiny_prompts
from tl_neuron_attr import evaluate, incontext
from tl_neuron_attr._turns import turn_on

TOKENS = architectures.prompts()
FUNCTIONS = {
    "head_effects": lambda model, i: tna.head_effects(model, TOKENS, i, heads=[(1, 1)], progress=False).prob[:, 1, 1],
    "estimate_effects": lambda model, i: evaluate.estimate_effects(model, TOKENS, i).mlp,
    "function_vector": lambda model, i: incontext.function_vector(model, tiny_prompts(model), [(i % 3, 1)]).vectors,
    "outcomes": lambda model, i: incontext.outcomes(model, tiny_prompts(model)).log_prob,
    "faithfulness": lambda model, i: torch.tensor(
        evaluate.faithfulness(model, ["w1 w2 w3"], [i], k=2, scores=["log_prob"], progress=False)
        .frame.select_dtypes("number")
        .to_numpy()
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_threads_that_share_a_model_get_what_each_gets_alone(name):
    model = architectures.build("llama", dtype=torch.float32)
    alone = [FUNCTIONS[name](model, i) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda i: FUNCTIONS[name](model, i % 4), range(12)))
    for i, found in enumerate(together):
        torch.testing.assert_close(found, alone[i % 4], rtol=0, atol=0)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_a_thread_that_has_its_turn_may_take_it_again_and_others_wait():
    model, seen = architectures.build("gpt2", dtype=torch.float32), []
    with turn_on(model), turn_on(model):
        other = threading.Thread(target=lambda: [seen.append(1) for _ in [0] if tna.ablation_hooks(model, [(0, 0)])])
        other.start()
        other.join(0.3)
        assert other.is_alive() and not seen
    other.join(10)
    assert seen
