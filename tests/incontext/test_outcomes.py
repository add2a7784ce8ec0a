"""What is said, against a loop over prompts without batches; interventions against one at a time in the weights."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tl_neuron_attr import demo, edit
from tl_neuron_attr.incontext import Outcomes, from_demo, outcomes, outcomes_without
from tl_neuron_attr.incontext.outcomes import accuracy

MODEL = demo.load()
PROMPTS = [p for k in (2, 5, 4) for p in from_demo(MODEL, demo.in_context(4, k, seed=k))]


def said_one_by_one(prompts=PROMPTS):
    with torch.no_grad():
        return [MODEL(torch.tensor([p.tokens]))[0, -1].double().log_softmax(-1) for p in prompts]


def test_outcomes_are_in_the_order_of_the_prompts_whatever_the_batch():
    for size in (1, 5, 64):
        said = outcomes(MODEL, PROMPTS, batch_size=size)
        for i, (prompt, log_p) in enumerate(zip(PROMPTS, said_one_by_one(), strict=True)):
            right = prompt.label_ids[prompt.gold]
            other = prompt.label_ids[1 - prompt.gold]
            assert float(said.log_prob[i]) == pytest.approx(float(log_p[right]), abs=1e-5)
            assert float(said.log_odds[i]) == pytest.approx(float(log_p[right] - log_p[other]), abs=1e-5)
            assert bool(said.right()[i]) == (int(log_p.argmax()) == right)
            assert bool(said.right("labels")[i]) == bool(log_p[right] > log_p[other])
            assert int(said.gold[i]) == prompt.gold


def test_sets_of_heads_are_zeroed_each_in_its_own_copies():
    sets = [[(1, 0)], [], [(3, 2), (3, 4), (2, 0)], [(0, 4)]]
    found = outcomes_without(MODEL, PROMPTS, sets, batch_size=10)
    assert found.log_prob.shape == (4, len(PROMPTS))
    for row, heads in enumerate(sets):
        with edit(MODEL, heads):
            expected = [float(p[q.label_ids[q.gold]]) for q, p in zip(PROMPTS, said_one_by_one(), strict=True)]
        assert found[row].log_prob.tolist() == pytest.approx(expected, abs=1e-4)


def test_memory_changes_no_outcome():
    sets = [[(1, 0)], [], [(3, 2), (3, 4)]]
    whole, small = (outcomes_without(MODEL, PROMPTS, sets, max_bytes=size) for size in (2**28, 1))
    torch.testing.assert_close(small.log_prob, whole.log_prob, atol=2e-5, rtol=0)
    assert torch.equal(small.label, whole.label)


def test_no_sets_and_logits_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="sets is empty"):
        outcomes_without(MODEL, PROMPTS, [])
    broken = [("blocks.1.hook_resid_pre", lambda resid, hook: resid * torch.nan)]
    with MODEL.hooks(fwd_hooks=broken):
        for run in (lambda: outcomes(MODEL, PROMPTS), lambda: outcomes_without(MODEL, PROMPTS, [[(1, 0)]])):
            with pytest.raises(ValueError, match="logits hold NaN or Inf"):
                run()


def test_a_correction_sees_the_prompts_of_its_batch():
    seen = []

    def correction(prompts):
        seen.extend(prompts)
        return [("unembed.hook_out", lambda logits, hook: torch.zeros_like(logits))]

    said = outcomes(MODEL, PROMPTS, correction=correction, batch_size=5)
    assert sorted(p.text for p in seen) == sorted(p.text for p in PROMPTS)
    assert said.log_odds.abs().max() == 0 and not bool(said.right().any())
    assert not any(hook.fwd_hooks for hook in MODEL.hook_dict.values())


@given(seed=st.integers(0, 1000))
def test_probabilities_among_labels_are_those_of_a_softmax_over_labels(seed):
    logits = torch.randn(6, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    gold = torch.arange(6) % 3
    said = Outcomes.of(logits, [2, 5, 7], gold)
    among = logits[:, [2, 5, 7]].softmax(-1).gather(1, gold[:, None])[:, 0]
    torch.testing.assert_close(said.prob("labels"), among)
    torch.testing.assert_close(said.prob(), logits.softmax(-1)[range(6), torch.tensor([2, 5, 7])[gold]])
    assert torch.equal(said.right("labels"), logits[:, [2, 5, 7]].argmax(-1) == gold)
    assert torch.equal(said.right(), logits.argmax(-1) == torch.tensor([2, 5, 7])[gold])


def test_accuracy_is_the_share_of_right_answers_overall_and_by_label():
    logits = torch.zeros(4, 3)
    logits[[0, 1, 2, 3], [1, 2, 2, 0]] = 1.0
    said = Outcomes.of(logits, [1, 2], torch.tensor([0, 0, 1, 1]))
    found = accuracy(said, ("foo", "bar"))
    assert (found["accuracy"], found["accuracy_foo"], found["accuracy_bar"]) == (0.5, 0.5, 0.5)
    assert found["low"] <= 0.5 <= found["high"]
    assert accuracy(said[None], ("foo", "bar")) == found
