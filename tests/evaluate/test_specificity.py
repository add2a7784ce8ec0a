"""What a prompt's neurons are worth elsewhere, against ablating by hand."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.evaluate.select import AskedPrompt
from tl_neuron_attr.evaluate.specificity import common_numbers, drops, reference_prompts
from tl_neuron_attr.model.tokens import prompt_ids


@pytest.fixture(scope="module")
def model():
    return architectures.build("llama", dtype=torch.float32)


def test_each_prompt_is_compared_with_one_of_each_other_type():
    types = dict(enumerate("aaabbc"))
    found = reference_prompts(types)
    for i, others in found.items():
        assert [types[j] for j in others] == list("abcabc"["abc".index(types[i]) + 1 :][:2])
    assert [found[i][0] for i in (0, 1, 2)] == [3, 4, 3]
    assert reference_prompts({0: "a", 1: "a"}) == {0: [], 1: []}
    assert len(reference_prompts(dict(enumerate("abcdefgh")))[0]) == 5


def test_what_is_common_is_on_more_than_half_of_the_lists():
    lists = [[1, 2, 3], [1, 2, 4], [1, 5, 6], [1, 2, 7]]
    records = [{"value_neurons": torch.tensor(x), "query_neurons": torch.tensor(x[:2])} for x in lists]
    assert common_numbers(records) == {"value": {1, 2}, "query": {1, 2}}
    assert common_numbers(records[:2] * 2) == {"value": {1, 2}, "query": {1, 2}}


def test_drops_are_those_of_ablating_by_hand(model):
    asked = [("w1 w2 w3", 5), ("w4 w5", 6)]
    with torch.no_grad():
        before = [float(model(text)[0, -1].log_softmax(-1)[w]) for text, w in asked]
    prompts = [(AskedPrompt(prompt_ids(model, text), (w,)), p) for (text, w), p in zip(asked, before, strict=True)]
    neurons = {"value": [3, 90, 170], "query": [5, 6]}
    found = drops(model, neurons, {"value": {90}, "query": {5, 6}}, prompts)
    assert found["counts"].tolist() == [3, 2, 2, 0]
    for row, chosen in enumerate(([3, 90, 170], [3, 170], [5, 6], [])):
        for column, (text, w) in enumerate(asked):
            with torch.no_grad(), tna.ablate(model, [("mlp", n // 80, n % 80) for n in chosen]):
                after = float(model(text)[0, -1].log_softmax(-1)[w])
            assert float(found["drops"][row, column]) == pytest.approx(before[column] - after, abs=1e-5)
