"""Type errors say what was wrong, what it was, and what to pass."""

import time

import pytest

import tl_neuron_attr as tna
from tests.test_typechecked import shown


@pytest.fixture(scope="module")
def real():
    model = tna.demo.load()
    return model, model.run_with_cache("3 + 5 =")[1]


def test_a_cache_s_usual_stand_ins_are_refused_at_once_with_what_to_pass(real):
    model, cache = real
    logits = model("3 + 5 =")
    for wrong, advice in (
        (model, r"pass the cache, model.run_with_cache\(tokens\)\[1\]"),
        ((logits, cache), r"got a tuple \(Tensor, ActivationCache\): pass the cache"),
        (dict(cache.items()), r"got a dict: wrap it as ActivationCache\(entries, model\)"),
    ):
        began = time.perf_counter()
        with pytest.raises(TypeError, match=advice):
            tna.value_neurons(wrong, 5)
        assert time.perf_counter() - began < 0.5


def test_the_wrong_element_is_named():
    with pytest.raises(TypeError, match=r"many\[4999\] must be an int, got 1.5"):
        shown(many=[1] * 4999 + [1.5] + [1] * 4999)


def test_long_values_are_cut():
    with pytest.raises(TypeError) as raised:
        shown(n="x" * 10_000)
    assert len(str(raised.value)) < 120
