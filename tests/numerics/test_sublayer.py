"""A sublayer's projections and sums against a loop over its neurons, one vector at a time."""

from dataclasses import replace

import pytest
import torch

from tests import synthetic
from tl_neuron_attr.numerics.sublayer import score_dtype

SEEDS = range(4)


def sublayers(seed):
    """Attention and MLP, with and without a norm after them, a multiplier on all that they write."""
    _, subs = synthetic.case(seed, batch=3)
    return [replace(sub, multiplier=0.3) for sub in subs]


def written(sub, row, neuron, source):
    """What one neuron wrote from one source."""
    vector = sub.directions[neuron] * sub.coefficients[row, neuron, source]
    if sub.post is not None:
        centred = vector - vector.mean() if sub.post.centred else vector
        vector = centred * sub.post.weight / sub.post.scale[row]
    return 0.3 * vector


def every(sub):
    return [(row, n, s) for row in range(len(sub.coefficients)) for n in range(sub.width) for s in range(sub.sources)]


@pytest.mark.parametrize("seed", SEEDS)
def test_writes_are_direction_times_coefficient_through_norm_and_multiplier(seed):
    for sub in sublayers(seed):
        at = every(sub)
        found = sub.writes(*torch.tensor(at).T)
        torch.testing.assert_close(found, torch.stack([written(sub, *each) for each in at]))


@pytest.mark.parametrize("seed", SEEDS)
def test_projections_are_inner_products_with_what_each_neuron_and_head_wrote(seed):
    g = torch.Generator().manual_seed(seed)
    for sub in sublayers(seed):
        vectors = torch.randn(3, sub.base.shape[1], generator=g, dtype=torch.float64)
        found = sub.project_onto(vectors)
        for row, n, s in every(sub):
            assert float(found[row, n, s]) == pytest.approx(float(vectors[row] @ written(sub, row, n, s)), abs=1e-12)
        one = sub.select(torch.tensor([2]))
        by_head, width = one.project_heads_onto(vectors), sub.width // sub.heads
        for i, vector in enumerate(vectors):
            for h in range(sub.heads):
                for s in range(sub.sources):
                    wrote = sum(written(sub, 2, n, s) for n in range(h * width, (h + 1) * width))
                    assert float(by_head[i, h, s]) == pytest.approx(float(vector @ wrote), abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_heads_write_is_the_sum_of_its_neurons(seed):
    for sub in sublayers(seed):
        found, width = sub.head_writes(), sub.width // sub.heads
        for row in range(3):
            for h in range(sub.heads):
                for s in range(sub.sources):
                    wrote = sum(written(sub, row, n, s) for n in range(h * width, (h + 1) * width))
                    torch.testing.assert_close(found[row, h, s], wrote)


def test_selected_prompts_keep_what_is_theirs():
    for sub in sublayers(1):
        chosen = sub.select(torch.tensor([2, 0]))
        for at, row in enumerate((2, 0)):
            assert torch.equal(chosen.base[at], sub.base[row])
            torch.testing.assert_close(chosen.head_writes()[at], sub.head_writes()[row])


@pytest.mark.parametrize(
    "dtype, expected",
    [(torch.float64, torch.float64), *((d, torch.float32) for d in (torch.float32, torch.bfloat16, torch.float16))],
)
def test_scores_are_in_float32_or_in_float64_where_the_model_is(dtype, expected):
    assert score_dtype(dtype) == expected


def test_without_a_multiplier_a_neuron_writes_direction_times_coefficient():
    _, subs = synthetic.case(2)
    for sub in (each for each in subs if each.post is None):
        expected = sub.directions[3] * sub.coefficients[1, 3, 0]
        torch.testing.assert_close(sub.writes(*torch.tensor([[1], [3], [0]]))[0], expected)
