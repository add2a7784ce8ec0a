"""Bootstrap means in one pass, against plain means and the standard error they estimate."""

import numpy as np
import pytest

from tl_neuron_attr.sweep.poisson_draws import PoissonDraws

VALUES = np.random.default_rng(5).normal(size=(200, 3))
GOLD = [i % 3 == 0 for i in range(200)]


def drawn(order, seed=0):
    found = PoissonDraws(seed=seed)
    for i in order:
        found.add(i, int(GOLD[i]), {"value": VALUES[i]})
    return found


def test_the_first_draw_is_the_mean_and_the_others_spread_by_its_error():
    found = drawn(range(200))
    for gold in (0, 1):
        mine = VALUES[[g == gold for g in GOLD]]
        means = found.means("value", gold).numpy()
        np.testing.assert_allclose(means[0], mine.mean(0))
        np.testing.assert_allclose(means[1:].std(0), mine.std(0) / len(mine) ** 0.5, rtol=0.12)
    np.testing.assert_allclose(found.means("value", None).numpy()[0], VALUES.mean(0))


def test_a_prompts_draws_are_its_own_whatever_comes_before():
    one, other = (drawn(order).means("value", 1).numpy() for order in (range(200), range(199, -1, -1)))
    np.testing.assert_allclose(one, other)
    assert not np.allclose(one[1:], drawn(range(200), seed=1).means("value", 1).numpy()[1:])


def test_a_value_that_was_not_added_is_unknown():
    with pytest.raises(KeyError):
        drawn(range(2)).means("other", 0)


def test_one_prompt_a_label_is_too_few_for_an_interval():
    found = drawn([0, 1])  # one of each label
    for gold in (0, 1, None):
        means = found.means("value", gold).numpy()
        assert np.isfinite(means[0]).all() and np.isnan(means[1:]).all()
    assert np.isfinite(drawn([0, 1, 2]).means("value", None).numpy()[0]).all()
