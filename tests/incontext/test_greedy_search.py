"""The greedy search, step by step against trying every head, and where it stops."""

import pytest
import torch

from tests.incontext import handmade
from tl_neuron_attr import demo
from tl_neuron_attr.incontext import from_demo, in_context_heads, outcomes_without
from tl_neuron_attr.incontext.greedy_search import greedy_search

OPTIONS = {"among": "vocabulary", "random_sets": 3, "batch_size": 64, "seed": 0, "progress": False}


def test_it_goes_on_until_chance():
    model = handmade.build()
    prompts = handmade.prompts(model, 40)
    found = greedy_search(
        model, prompts[:20], prompts[20:], [(0, 0), (1, 0)], [(0, 0), (1, 0)], largest=2, chance=0.5, **OPTIONS
    )
    assert found[["layer", "head"]].to_numpy().tolist() == [[1, 0]]
    assert found["accuracy"].tolist() == [0.0] and found["high"].iloc[0] <= 0.5
    assert greedy_search(model, prompts[:20], prompts[20:], [(1, 0)], [(1, 0)], largest=0, chance=0.5, **OPTIONS).empty


@torch.no_grad()
def test_every_step_adds_the_head_that_costs_most():
    model = demo.load()
    prompts = from_demo(model, demo.in_context(24, 4, query="strong", seed=2))
    candidates = [(2, 0), (3, 2), (3, 4), (1, 0)]
    found = greedy_search(model, prompts[:12], prompts[12:], candidates, candidates, largest=2, chance=0.0, **OPTIONS)
    chosen = []
    for layer, head in found[["layer", "head"]].to_numpy().tolist():
        left = [h for h in candidates if h not in chosen]
        probs = [float(outcomes_without(model, prompts[:12], [[*chosen, h]])[0].prob().mean()) for h in left]
        chosen.append(left[probs.index(min(probs))])
        assert chosen[-1] == (layer, head)
    assert found["size"].tolist() == [1, 2]
    assert (found["random_low"] <= found["random"]).all() and (found["random"] <= found["random_high"]).all()
    after = outcomes_without(model, prompts[12:], [chosen])[0].right().double().mean()
    assert found["accuracy"].iloc[-1] == pytest.approx(float(after))


def test_the_search_is_part_of_what_is_found():
    model = handmade.build()
    found = in_context_heads(model, handmade.prompts(model, 40), n=1, search=2, random_sets=2, progress=False)
    assert found.smallest == [(1, 0)] == found.heads
