"""Items show the class they are drawn for, as often as their words are reliable, and pairs of their split only."""

from random import Random

import pytest

from tl_neuron_attr.demo.classes import LOG_ODDS, NEUTRAL, NOUNS, SENTIMENTS, TOPICS, item_split
from tl_neuron_attr.demo.items import FORMATS, POOLS, class_item, neutral_item, sentiment_item


def adjective_of(item):
    (word,) = [word for word in item if word in LOG_ODDS]
    return word


@pytest.mark.parametrize("pool, least, most", [("strong", 0.97, 1.0), ("ordinary", 0.9, 0.98), ("weak", 0.5, 0.85)])
def test_an_adjective_misleads_as_often_as_its_pool_says(pool, least, most):
    rng, agree = Random(0), []
    for i in range(4000):
        sentiment = SENTIMENTS[i % 2]
        adjective = adjective_of(sentiment_item(rng, sentiment, pool=pool, form=0))
        assert adjective in POOLS[pool]
        agree.append((LOG_ODDS[adjective] > 0) == (sentiment == "positive"))
    assert least < sum(agree) / len(agree) <= most


@pytest.mark.parametrize("split", ["train", "tuning", "held_out"])
@pytest.mark.parametrize("form", range(FORMATS - 1))
def test_pairs_are_of_the_split_in_every_form(split, form):
    for seed in range(100):
        item = class_item(Random(seed), "negative", form=form, split=split)
        (noun,) = [word for word in item if word in NOUNS]
        assert item_split(adjective_of(item), noun) == split


@pytest.mark.parametrize("form", range(FORMATS))
def test_an_item_of_a_topic_names_one_of_its_things(form):
    for seed in range(50):
        assert class_item(Random(seed), "animal", form=form)[-1] in TOPICS["animal"]


def test_a_neutral_item_has_no_sentiment():
    items = [neutral_item(Random(seed), form=0) for seed in range(300)]
    assert not [word for item in items for word in item if word in LOG_ODDS]
    assert {item[0] for item in items} == {*NEUTRAL, "N/A"}
