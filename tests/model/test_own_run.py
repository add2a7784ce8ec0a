"""One prompt of a batch, alone in a cache: what is scored of it is what its own run gives."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.model.own_run import own_run


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_a_prompt_of_a_batch_has_the_scores_of_its_own_run(name):
    model = architectures.build(name)
    short, long = architectures.prompts(1, 4)[0], architectures.prompts(1, 7)[0]
    both = tna.answer(model, [short, long], [torch.tensor([5, 17]), torch.tensor([3])])
    for q, prompt, answer in ((both[0], short, [5, 17]), (both[1], long, [3])):
        found, expected = own_run(q), tna.answer(model, prompt, torch.tensor(answer))
        assert found.stream.shape[0] == 1
        assert torch.allclose(tna.attribute_heads(found)[0], tna.attribute_heads(expected), atol=1e-9)
        assert tna.value_neurons(found, k=5)[0].labels == tna.value_neurons(expected, k=5).labels


def test_a_cache_of_one_position_stays_one():
    model = architectures.build("llama")
    prompts = architectures.prompts(2, 6)
    found = own_run(tna.scored(tna.run(model, prompts), 5)[1])
    expected = tna.scored(tna.run(model, prompts[1:]), 5)
    assert torch.allclose(tna.attribute_head_positions(found), tna.attribute_head_positions(expected), atol=1e-9)


def test_a_single_prompt_is_returned_as_it_is_and_two_runs_are_refused():
    model = architectures.build("llama")
    prompt, answer = architectures.prompts(1, 4)[0], torch.tensor([5, 17])
    alone = tna.answer(model, prompt, answer)
    assert own_run(alone) is alone
    with pytest.raises(ValueError, match="in 2 runs of the cache"):
        own_run(tna.answer(model, prompt, answer, contrast=torch.tensor([3, 4])))
