import numpy as np
import pytest
import torch

from tl_neuron_attr.incontext.resampling import Resampled, estimate, percent


def test_means_are_of_the_prompts_drawn_and_the_first_draw_is_all_of_them():
    gold = torch.tensor([0, 1, 0, 0, 1, 1, 0])
    values = torch.rand(3, 7, generator=torch.Generator().manual_seed(0))
    sample = Resampled(gold, 2)
    for label in (0, 1):
        means = sample.means(values, label)
        inside = values[:, gold == label].double()
        torch.testing.assert_close(means[0], inside.mean(1))
        assert bool((means <= inside.max(1).values + 1e-9).all() & (means >= inside.min(1).values - 1e-9).all())
        spread = inside.std(1, correction=0) / len(inside[0]) ** 0.5
        torch.testing.assert_close(means[1:].std(0), spread, rtol=0.1, atol=0)
    torch.testing.assert_close(sample.means(values, None)[0], values.double().mean(1))
    parts = [sample.means(values, label) * n for label, n in ((0, 4), (1, 3))]
    torch.testing.assert_close(sample.means(values, None), (parts[0] + parts[1]) / 7)


def test_what_is_drawn_together_changes_together():
    gold = torch.tensor([0, 1] * 20)
    values = torch.rand(1, 40, generator=torch.Generator().manual_seed(1))
    both = Resampled(gold, 2).means(torch.cat([values, 0.5 * values]), None)
    assert estimate(percent(both[:, 0], both[:, 1])) == pytest.approx((-50, -50, -50))
    assert torch.equal(both, Resampled(gold, 2).means(torch.cat([values, 0.5 * values]), None))
    assert not torch.equal(both, Resampled(gold, 2, seed=1).means(torch.cat([values, 0.5 * values]), None))


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), 0
    for trial in range(100):
        values = torch.tensor(rng.normal(size=(1, 60)))
        _, low, high = estimate(Resampled(torch.zeros(60, dtype=torch.long), 1, seed=trial).means(values, 0)[:, 0])
        hits += low <= 0 <= high
    assert 87 <= hits <= 100


def test_nothing_to_compare_gives_no_interval():
    assert all(np.isnan(estimate(percent(torch.zeros(5), torch.zeros(5)))))
    equal = torch.full((5,), 1.3e-16)  # what the standard deviation of equal numbers is on some processors
    assert all(np.isnan(estimate(percent(equal, equal / 2))))


def test_a_label_of_one_prompt_has_no_interval_and_all_prompts_together_have_one():
    sample, values = Resampled(torch.tensor([0, 1, 1]), 3), torch.tensor([[1.0, 2.0, 4.0]])
    value, low, high = estimate(sample.means(values, 0)[:, 0])
    assert value == 1 and np.isnan([low, high]).all()
    assert estimate(sample.means(values, None)[:, 0]) == pytest.approx((7 / 3, 5 / 3, 3))
    assert np.isnan(estimate(Resampled(torch.tensor([0, 1]), 2).means(values[:, :2], None)[:, 0])[1])
    assert bool(sample.means(values, 2).isnan().all())  # of a label without prompts
