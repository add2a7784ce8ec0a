import pytest
import torch

import tl_neuron_attr as tna
from tl_neuron_attr import demo
from tl_neuron_attr.vis.prediction import Prediction, ordinal

PROMPT = "Tim Duncan plays the sport of"


@pytest.fixture(scope="module")
def cache():
    return demo.load().run_with_cache(PROMPT)[1]


def test_the_likeliest_answers_are_the_models_own(cache):
    found = Prediction.of(tna.scored(cache, " golf"))
    probs = demo.load()(PROMPT)[0, -1].softmax(-1)
    best = probs.topk(10)
    assert found.likeliest == best.indices.tolist()
    assert [p for _, p in found.answers] == pytest.approx(best.values.tolist(), rel=1e-4)
    golf = demo.load().to_single_token(" golf")
    assert found.prob == pytest.approx(float(probs[golf]), rel=1e-4)
    assert found.rank == int((probs >= probs[golf]).sum())
    assert found.standing == f"ranked {ordinal(found.rank)}"


def test_a_prediction_that_is_not_given_is_the_first_choice(cache):
    found = Prediction.of(tna.scored(cache))
    assert (found.target, found.rank, found.standing) == (found.likeliest[0], 1, "")
    assert found.title == "What made the model say basketball?"


def test_a_contrast_is_named(cache):
    assert Prediction.of(tna.scored(cache, " golf", contrast=" rugby")).contrast.strip() == "rugby"


def test_ordinals():
    assert [ordinal(n)[-2:] for n in (1, 2, 3, 4, 11, 12, 13, 21, 111, 112)] == [
        "st", "nd", "rd", "th", "th", "th", "th", "st", "th", "th",
    ]  # fmt: skip
    assert torch.tensor([len(ordinal(n)) for n in (1, 1000)]).tolist() == [3, 7]
