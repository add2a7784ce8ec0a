"""The model worked out on paper does what its formulas say; every score of the package is then held against them."""

import math

import pytest
import torch

from tests import architectures
from tests.incontext import handmade
from tl_neuron_attr.incontext import batch_of, label_attention, label_logit_difference, outcomes, outcomes_without
from tl_neuron_attr.incontext.static_scores import static_scores

CLOSE = {"abs": 2e-6, "rel": 2e-6}
"""Norms are computed in float32, also in a float64 model."""


@pytest.fixture(scope="module")
def model():
    return handmade.build()


@pytest.fixture(scope="module")
def prompts(model):
    return handmade.prompts(model, 12)


@pytest.fixture(scope="module")
def cache(model, prompts):
    with torch.no_grad():
        return model.run_with_cache(batch_of(model, prompts).tokens)[1]


def test_it_attends_and_answers_as_worked_out(model, prompts, cache):
    logits = model(batch_of(model, prompts).tokens)[:, -1]
    for i, prompt in enumerate(prompts):
        query, texts, _ = handmade.parts(prompt)
        attention = label_attention(cache, prompts)[i, 1, 0]
        assert attention.tolist() == pytest.approx(handmade.attention(query, texts), **CLOSE)
        expected = handmade.label_logits(prompt)
        assert logits[i, [handmade.FOO, handmade.BAR]].tolist() == pytest.approx(expected, **CLOSE)
        assert expected[prompt.gold] > expected[1 - prompt.gold]


def test_what_it_copies(prompts, cache):
    weighted, plain = (label_logit_difference(cache, prompts, weighted=w) for w in (True, False))
    assert weighted.shape == plain.shape == (12, 2, 1, 4)
    assert float(weighted[:, 0].abs().max()) == float(plain[:, 0].abs().max()) == 0
    for i, prompt in enumerate(prompts):
        query, texts, labels = handmade.parts(prompt)
        scale = handmade.final_scale(handmade.out(query, texts, labels))
        unit = handmade.UNEMBED * handmade.COPY / handmade.SCALE_1 / scale
        signs = [1 - 2 * label for label in labels]
        assert plain[i, 1, 0].tolist() == pytest.approx([unit * s for s in signs], **CLOSE)
        by_attention = [unit * s * a for s, a in zip(signs, handmade.attention(query, texts), strict=True)]
        assert weighted[i, 1, 0].tolist() == pytest.approx(by_attention, **CLOSE)


def test_the_static_score_is_what_the_reader_adds(model, prompts):
    scores = static_scores(model, prompts)
    assert scores.followed.tolist() == [prompt.gold for prompt in prompts]
    assert float(scores.increase[:, 0].abs().max()) < 1e-6
    for i, prompt in enumerate(prompts):
        logits = handmade.label_logits(prompt)
        others = architectures.VOCAB - 2
        after = logits[prompt.gold] - math.log(sum(map(math.exp, logits)) + others)
        assert float(scores.increase[i, 1, 0]) == pytest.approx(after + math.log(architectures.VOCAB), **CLOSE)
        query, texts, _ = handmade.parts(prompt)
        assert float(scores.attention[i, 1, 0]) == pytest.approx(sum(handmade.attention(query, texts)), **CLOSE)


def test_without_the_reader_nothing_is_known(model, prompts):
    said = outcomes(model, prompts)
    assert bool(said.right().all()) and said.gold.tolist() == [prompt.gold for prompt in prompts]
    margins = [handmade.label_logits(p)[p.gold] - handmade.label_logits(p)[1 - p.gold] for p in prompts]
    assert said.log_odds.tolist() == pytest.approx(margins, **CLOSE)
    without = outcomes_without(model, prompts, [[(1, 0)], [(0, 0)], []])
    assert without[0].log_prob.tolist() == pytest.approx([-math.log(architectures.VOCAB)] * 12, **CLOSE)
    assert not bool(without[0].right().any())
    assert float(without[0].log_odds.abs().max()) < 1e-6
    assert float(without[1].right().double().mean()) < 1  # without the feature the nearest labels win
    torch.testing.assert_close(without[2].log_prob, said.log_prob)
