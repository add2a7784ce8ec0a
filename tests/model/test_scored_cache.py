"""A cache scored once: the same numbers, fewer products, and nothing given twice."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.numerics.increase import WIDTH
from tl_neuron_attr.numerics.readout import Readout

FUNCTIONS = [
    tna.attribute_layers,
    tna.attribute_heads,
    tna.attribute_head_positions,
    tna.attribute_mlp_neurons,
    tna.attribute_attn_neurons,
    tna.value_neurons,
    tna.baseline_scores,
]


def numbers(result):
    if isinstance(result, tna.LayerScores):
        return torch.stack([result.attn, result.mlp])
    return result.score if isinstance(result, tna.Neurons) else result


@pytest.fixture(scope="module")
def cache():
    return architectures.run("llama")[1]


@pytest.fixture
def passes(monkeypatch):
    """How many times the unembedding was read."""
    counted = []

    def counting(self, width):
        counted.append(width)
        return original(self, width)

    original = Readout.chunks
    monkeypatch.setattr(Readout, "chunks", counting)
    return counted


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("scoring", [{}, {"pos": torch.tensor([6, 4])}, {"contrast": 3}, {"final_bias": False}])
def test_a_scored_cache_gives_the_numbers_of_cache_and_target(cache, function, scoring):
    if function is tna.baseline_scores and "contrast" in scoring:
        pytest.skip("scores one token")
    q = tna.scored(cache, 5, **scoring)
    torch.testing.assert_close(numbers(function(q)), numbers(function(cache, 5, **scoring)), atol=1e-12, rtol=0)


def test_query_scores_and_the_flow_need_no_second_search(cache):
    one = architectures.run("llama", batch=1)[1]
    q = tna.scored(one, 5)
    value = tna.value_neurons(q, k=8)
    assert tna.query_neurons(q, value, 6).labels == tna.query_neurons(one, value, 6).labels
    torch.testing.assert_close(tna.query_layers(q, value).mlp, tna.query_layers(one, value).mlp)
    flow, again = tna.trace(q, value=value), tna.trace(one, 5, k=8)
    assert flow.to_frame().equals(again.to_frame())


@pytest.mark.parametrize("function", [tna.attribute_layers, tna.attribute_heads, tna.attribute_head_positions])
def test_the_unembedding_is_read_a_few_times_for_all_layers(cache, passes, function):
    """Once for the base streams, once for all vectors, once more for those whose expectation nearly cancels."""
    function(cache, 5)
    assert len(passes) <= (1 if function is tna.attribute_layers else 3)


def test_base_distributions_are_read_out_once_for_several_calls(cache, passes):
    q = tna.scored(cache, 5)
    tna.attribute_layers(q)
    tna.attribute_heads(q)
    tna.attribute_head_positions(q)
    assert passes.count(WIDTH) == 1


def test_means_come_with_the_base_distributions_where_more_calls_will_follow(cache, passes):
    q = tna.scored(cache, 5)
    tna.attribute_layers(q)
    assert passes == [WIDTH]
    tna.attribute_heads(q)
    before = len(passes)
    value = tna.value_neurons(q, k=7, text=False)
    assert len(passes) - before == int(bool(value.evaluated.max()))
    assert value.labels == tna.value_neurons(cache, 5, 7).labels


def test_nothing_is_read_for_searches_that_need_no_means(cache, passes):
    q = tna.scored(cache, 5, contrast=3)
    q.read_at_once(2**20)
    tna.scored(cache, 5, max_bytes=1).read_at_once(2**20)
    tna.scored(cache, 5).read_at_once(1)
    assert passes == []


def test_what_does_not_fit_is_not_kept_and_changes_nothing(cache):
    small = tna.scored(cache, 5, max_bytes=1)
    torch.testing.assert_close(
        tna.attribute_heads(small, max_bytes=1), tna.attribute_heads(cache, 5), atol=1e-12, rtol=0
    )


def test_it_says_what_it_is(cache):
    assert repr(tna.scored(cache, 5, pos=torch.tensor([6, 4]))) == "ScoredCache(2 prompts at [6, 4], target [5, 5])"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cache", "model"])
def test_every_working_set_stays_under_its_cap(kind):
    """48 heads, 64 sources, 50,000 tokens: 614 MB of contributions. Freed chunks once grew this to 2.6 GB."""
    code = Path(__file__).parent / "peak_memory.py"
    done = subprocess.run([sys.executable, code, kind], capture_output=True, text=True, check=True)
    grown = json.loads(done.stdout.splitlines()[-1])
    assert len(grown) == {"cache": 11, "model": 8}[kind]
    assert max(grown.values()) < 150, f"MiB under max_bytes=16 MiB: {grown}"


def test_one_prompt_of_several_is_taken_by_its_number(cache):
    q = tna.scored(cache, 5)
    torch.testing.assert_close(tna.attribute_heads(q[-1])[0], tna.attribute_heads(q)[1], atol=1e-12, rtol=0)
    with pytest.raises(IndexError, match="result must lie between -2 and 1, got 2"):
        q[2]


def test_places_are_taken_together_where_their_distributions_fit():
    q, cap = tna.scored(architectures.run("llama", batch=3)[1], 5), 2**20
    assert next(q.groups(cap)) is q
    assert [group.places.row.tolist() for group in q.groups(1)] == [[0], [1], [2]]
    unkept = tna.scored(q.stream.cache, 5, max_bytes=1)
    assert [group.places.row.tolist() for group in unkept.groups(cap)] == [[0, 1, 2]]


def test_a_search_that_was_made_before_reads_the_unembedding_no_more(cache, passes):
    q = tna.scored(cache, 5)
    first = tna.value_neurons(q, k=7)
    before = len(passes)
    again, fewer = tna.value_neurons(q, k=7), tna.value_neurons(q, k=3)
    assert before > 0 and len(passes) == before
    assert torch.equal(again.score, first.score) and again.labels == first.labels and again.text == first.text
    assert torch.equal(fewer.score, first.score[:, :3])


@torch.no_grad()
@pytest.mark.parametrize("weight", ["W_U", "ln_final"])
@pytest.mark.parametrize("later", [lambda q: tna.value_neurons(q, k=9), tna.attribute_layers, tna.attribute_heads])
def test_a_readout_that_changed_since_a_call_is_refused_by_the_next(weight, later):
    """What the first call kept is of the old weights; the second would mix the two."""
    model = architectures.build("llama")
    q = tna.scored(model.run_with_cache(architectures.prompts())[1], 5)
    before = later(q)
    changed = model.W_U if weight == "W_U" else model.ln_final.original_component.weight
    changed.mul_(1.1)
    with pytest.raises(ValueError, match="weights were changed since the run"):
        later(q)
    changed.div_(1.1)
    assert str(later(q)) == str(before)
