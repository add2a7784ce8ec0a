"""Caches, targets and positions in every form users pass them; nothing given twice."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tests.model.test_scored_cache import FUNCTIONS
from tl_neuron_attr.model.scored import same_places
from tl_neuron_attr.model.stream import Stream


@pytest.fixture(scope="module")
def cache():
    return architectures.run("llama")[1]


@pytest.mark.parametrize("function", [*FUNCTIONS, tna.trace])
@pytest.mark.parametrize("given", [{"target": 5}, {"pos": -1}, {"contrast": 3}, {"final_bias": True}])
def test_what_a_scored_cache_has_is_not_given_again(cache, function, given):
    with pytest.raises(ValueError, match=f"{next(iter(given))} given with a scored cache"):
        function(tna.scored(cache, 5), **given)


def test_query_functions_refuse_a_second_position(cache):
    q = tna.scored(cache, 5)
    value = tna.value_neurons(q, k=3)
    for function in (tna.query_layers, tna.query_neurons):
        with pytest.raises(ValueError, match="pos given with a scored cache"):
            function(q, value, pos=-1)


def test_without_a_target_the_models_own_prediction_is_followed():
    model, ids = architectures.build("llama", dtype=torch.float32), architectures.prompts()
    logits, cache = model.run_with_cache(ids)
    own = logits[:, -1].argmax(-1)
    assert own[0] != own[1] or len(own) == 1
    assert tna.scored(cache).target.tolist() == own.tolist()
    assert torch.equal(tna.attribute_heads(cache), tna.attribute_heads(cache, own))
    assert torch.equal(tna.attribute_heads(cache, own[0]), tna.attribute_heads(cache, int(own[0])))  # a 0-d tensor
    assert tna.value_neurons(cache, k=4) == tna.value_neurons(cache, own, 4)


def test_an_unknown_keyword_is_named(cache):
    with pytest.raises(TypeError, match="unexpected keyword argument 'position'"):
        tna.attribute_heads(cache, 5, position=3)


def test_the_position_given_is_the_one_scored_and_the_last_by_default(cache):
    assert tna.scored(cache, 5, pos=3).places.pos.tolist() == [3, 3]
    assert tna.scored(cache, 5, pos=torch.tensor([2, 5])).places.pos.tolist() == [2, 5]
    assert tna.scored(cache, 5).places.pos.tolist() == [6, 6]


def test_the_places_of_an_answer_are_those_of_another_run_of_it_and_of_no_other_text():
    model, prompt = architectures.build("llama"), architectures.prompts(1, 4)[0]
    q = tna.answer(model, prompt, torch.tensor([5, 17, 5]))
    others = {}
    for name, answer in (("same", [5, 17, 5]), ("other", [5, 18, 5])):
        tokens = torch.cat([prompt, torch.tensor(answer)])[None]
        others[name] = Stream(model.run_with_cache(tokens)[1])
    assert same_places(q, others["same"]) is q.places
    with pytest.raises(ValueError, match="other does not hold the answer where cache does"):
        same_places(q, others["other"])
