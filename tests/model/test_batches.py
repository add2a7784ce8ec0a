import pytest
import torch

from tests import architectures
from tl_neuron_attr.model.batches import answer_batches, batches, of_tokens
from tl_neuron_attr.model.tokens import prompt_ids


def test_every_prompt_comes_once_with_its_own_tokens():
    model = architectures.build("gpt2", dtype=torch.float32)
    prompts = ["w1 w2", "w3", "w4 w5", "w6 w7", "w8"]
    found = list(batches(model, prompts, batch_size=2))
    assert sorted(i for b in found for i in b.indices) == list(range(5))
    for batch in found:
        for i, ids in zip(batch.indices, batch.tokens, strict=True):
            assert torch.equal(ids, prompt_ids(model, prompts[i]))
    assert max(len(b.indices) for b in found) == 2


def test_tokens_of_any_length_are_put_together_by_it():
    tokens = [torch.arange(length) for length in (3, 2, 3, 1, 2)]
    found = {tuple(batch.indices): batch.tokens.shape[1] for batch in of_tokens(tokens, batch_size=2)}
    assert found == {(3,): 1, (1, 4): 2, (0, 2): 3}


def test_answers_stand_behind_their_prompts_but_for_the_last_token_which_is_predicted():
    prompts = [torch.arange(n) for n in (3, 2, 3, 3)]
    answers = [(7, 8), (9,), (5,), (3, 4)]
    found = list(answer_batches(prompts, answers, batch_size=4))
    assert [b.indices for b in found] == [[1], [2], [0, 3]]
    assert found[2].tokens.tolist() == [[0, 1, 2, 7], [0, 1, 2, 3]]
    assert found[2].target.tolist() == [[7, 8], [3, 4]]
    logits = torch.randn(2, 4, 11)
    assert torch.equal(found[2].predicting(logits), logits[:, 2:4])


def test_no_prompts_and_empty_prompts_are_refused():
    model = architectures.build("gpt2", dtype=torch.float32)
    with pytest.raises(ValueError, match="prompts is empty"):
        list(batches(model, [], batch_size=2))
    with pytest.raises(ValueError, match=r"prompts\[1\] is empty"):
        list(batches(model, ["w1", ""], batch_size=2))
