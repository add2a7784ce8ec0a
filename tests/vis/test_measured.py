import pytest

import tl_neuron_attr as tna
from tl_neuron_attr import demo, evaluate
from tl_neuron_attr.vis.measured import measured

PROMPT, TARGET = "Tim Duncan plays the sport of", " basketball"


@pytest.fixture(scope="module")
def model():
    return demo.load()


def test_it_is_what_verify_measures(model):
    _, cache = model.run_with_cache(PROMPT)
    value = tna.value_neurons(cache, TARGET, 4)[0]
    for contrast in (None, " golf"):
        q = tna.scored(cache, TARGET, contrast=contrast)
        expected = evaluate.verify(model, PROMPT, value, TARGET, contrast=contrast, progress=False)
        assert measured(q, value) == expected


def test_a_run_that_cannot_be_repeated_is_not_measured(model):
    with tna.ablate(model, ["L1N287"]):
        _, cache = model.run_with_cache(PROMPT)
    value = tna.value_neurons(cache, TARGET, 4)[0]
    assert measured(tna.scored(cache, TARGET), value) is None


def test_a_cache_without_tokens_is_not_measured(model):
    _, cache = model.run_with_cache(PROMPT, names_filter=lambda name: name != "embed.hook_in")
    assert measured(tna.scored(cache, TARGET), tna.value_neurons(cache, TARGET, 4)[0]) is None
