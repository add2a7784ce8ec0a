"""The run that a correction acts in: its own prompts, whole, or nothing is corrected."""

import pytest
import torch

from tl_neuron_attr import demo
from tl_neuron_attr.incontext import batch_of, from_demo, majority_correction
from tl_neuron_attr.incontext.matched_run import MatchedRun


@pytest.fixture(scope="module")
def model():
    return demo.load()


@pytest.fixture(scope="module")
def prompts(model):
    return from_demo(model, demo.in_context(3, 3, order=(0, 0, 1)))


def test_runs_of_other_prompts_are_refused(model, prompts):
    tokens = batch_of(model, prompts).tokens
    padded = torch.cat([torch.zeros_like(tokens[:, :2]), tokens], 1)
    for given, message in (
        (tokens.flip(0), "the run is of others, in another order or padded otherwise"),
        (tokens[:2], "the correction is of 3 prompts of up to 19 tokens"),
        (padded, "padded on the left"),
        (tokens[:, :5], "the run is of 5 tokens, the prompts of 19: run them whole"),
    ):
        with (
            model.hooks(fwd_hooks=majority_correction(model, prompts, [(3, 4)])),
            pytest.raises(ValueError, match=message),
        ):
            model(given)


def test_repeated_and_continued_prompts_are_the_same_prompts(model, prompts):
    matched = MatchedRun.of(model, prompts)
    name, look = matched.hook()
    tokens = batch_of(model, prompts).tokens
    assert name in model.hook_dict and not matched.seen
    look(tokens.repeat(2, 1), None)
    look(torch.cat([tokens, tokens[:, :1]], 1), None)
    assert matched.seen
    look(tokens[:, :1], None)


def test_padding_is_not_compared(model):
    mixed = from_demo(model, [*demo.in_context(1, 2), *demo.in_context(1, 2, form=1)])
    matched = MatchedRun.of(model, mixed)
    tokens = batch_of(model, mixed).tokens.clone()
    assert int((matched.real == 0).sum()) > 0
    tokens[matched.real == 0] = 7
    matched.hook()[1](tokens, None)
    assert matched.seen


def test_the_row_of_the_last_position():
    matched = MatchedRun([], 6, torch.zeros(0, 6, dtype=torch.long), torch.zeros(0, 6, dtype=torch.long))
    assert matched.row(6, 6) == matched.row(9, 9) == 5
    assert matched.row(1, 7) is None and matched.row(2, 8) is None
    for run, keys, message in (
        (1, 1, "attention reaches 1 position and not the prompt before"),
        (5, 5, "attention reaches 5 positions"),
        (2, 7, "the first 5 of the prompts' 6 tokens are in a key-value cache only"),
    ):
        with pytest.raises(ValueError, match=message):
            matched.row(run, keys)
