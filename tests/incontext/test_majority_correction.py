"""What is added is the formula's sum, on every architecture and in the model worked out on paper."""

import math

import pytest
import torch

from tests import architectures
from tests.incontext import handmade
from tests.incontext.test_icl_batches import tiny_prompts
from tl_neuron_attr import demo
from tl_neuron_attr.incontext import batch_of, from_demo, icl_prompt
from tl_neuron_attr.incontext.majority_correction import _weights, majority_correction
from tl_neuron_attr.incontext.matched_run import MatchedRun
from tl_neuron_attr.model.stream import Stream

HEADS = [(1, 0), (2, 3), (1, 2)]
HIDDEN = ("opt", "gptj", "gpt_neo")
CACHED = ("neox_parallel", "bloom", "falcon", "opt")


def added(cache, row, prompt, heads, a_c):
    """The formula, from what the package says each head wrote from each position."""
    stream = Stream(cache)
    shift, most = stream.shape[1] - len(prompt), max(prompt.counts)
    total = torch.zeros(architectures.D_MODEL)
    for layer, head in heads:
        writes = stream.sublayer("attn", layer, stream.last).head_writes()[row, head]
        for position, label in zip(prompt.label_positions, prompt.sequence, strict=True):
            if prompt.counts[label] < most:
                total += a_c * most / prompt.counts[label] * writes[shift + position]
    return total


@torch.no_grad()
@pytest.mark.parametrize("name", architectures.BUILDERS)
def test_the_formulas_sum_is_added_to_the_final_stream(name):
    model = architectures.build(name, dtype=torch.float32)
    prompts = tiny_prompts(model)
    tokens, mask = batch_of(model, prompts).inputs(2)
    _, cache = model.run_with_cache(tokens, **mask)
    final = cache["blocks.2.hook_resid_post"].clone()
    for row in range(4):
        final[row, -1] += added(cache, row, prompts[row % 2], HEADS, 0.7)
    expected = model.adapter.apply_output_logits_transform(model.unembed(model.ln_final(final)))
    with model.hooks(fwd_hooks=majority_correction(model, prompts, HEADS, a_c=0.7)):
        found = model(tokens, **mask)
        again = model(tokens, **mask)
    assert float((found[:, -1] - model(tokens, **mask)[:, -1]).abs().max()) > 1e-3
    torch.testing.assert_close(found[:, -1], expected[:, -1], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(again, found)
    torch.testing.assert_close(found[:, :-1], model(tokens, **mask)[:, :-1])


@pytest.mark.parametrize("where", ["stream", "heads"])
@pytest.mark.parametrize("renormalised", [False, True])
def test_it_is_what_was_worked_out_on_paper(where, renormalised):
    model = handmade.build()
    labels = ("w1", "w2")
    shown = [("w10", "w1"), ("w11", "w2"), ("w14", "w1"), ("w12", "w1")]
    prompt = icl_prompt(model, shown, "w13", "w2", labels=labels, separator=handmade.SEPARATOR)
    query, texts, sequence = handmade.parts(prompt)
    attention = handmade.attention(query, texts)
    unit = handmade.COPY / handmade.SCALE_1
    foo, bar = handmade.out(query, texts, sequence)
    bar += 0.2 * 3 / 1 * unit * attention[1] / (sum(attention) if renormalised else 1)
    scale = handmade.final_scale((foo, bar))
    hooks = majority_correction(model, [prompt], [(1, 0)], a_c=0.2, where=where, renormalised=renormalised)
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        logits = model(torch.tensor([prompt.tokens]))[0, -1]
    expected = [handmade.UNEMBED * foo / scale, handmade.UNEMBED * bar / scale]
    assert logits[[handmade.FOO, handmade.BAR]].tolist() == pytest.approx(expected, abs=2e-6)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "neox_parallel", "gemma2", "bloom"])
def test_heads_that_write_more_write_the_same_sum(name):
    model = architectures.build(name, dtype=torch.float32)
    prompts = tiny_prompts(model)
    tokens, mask = batch_of(model, prompts).inputs()
    _, cache = model.run_with_cache(tokens, **mask)
    heads = [(1, 0), (1, 2)]
    with model.hooks(fwd_hooks=majority_correction(model, prompts, heads, a_c=0.7, where="heads")):
        _, changed = model.run_with_cache(tokens, **mask)
    z = cache["blocks.1.attn.hook_z"].clone()
    for row, prompt in enumerate(prompts):
        for _, head in heads:
            kv = head // (architectures.HEADS // cache["blocks.1.attn.hook_v"].shape[2])
            for position, label in zip(prompt.label_positions, prompt.sequence, strict=True):
                at = tokens.shape[1] - len(prompt) + position
                ratio = 2 if prompt.counts[label] == 1 else 0
                weight = 0.7 * ratio * cache["blocks.1.attn.hook_pattern"][row, head, -1, at]
                z[row, -1, head] += weight * cache["blocks.1.attn.hook_v"][row, at, kv]
    torch.testing.assert_close(changed["blocks.1.attn.hook_z"], z, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_balanced_prompts_are_left_alone():
    model = demo.load()
    prompts = from_demo(model, demo.in_context(3, 4, counts=(2, 2)))
    tokens = batch_of(model, prompts).tokens
    with model.hooks(fwd_hooks=majority_correction(model, prompts, [(3, 4)], a_c=5)):
        assert torch.equal(model(tokens), model(tokens))
        corrected = model(tokens)
    torch.testing.assert_close(corrected, model(tokens))


@torch.no_grad()
def test_generation_is_corrected_in_its_first_token_with_and_without_a_cache():
    for name in CACHED:
        model = architectures.build(name, dtype=torch.float32)
        prompts = tiny_prompts(model)
        batch = batch_of(model, prompts)
        texts = []
        for cached in (True, False):
            with model.hooks(fwd_hooks=majority_correction(model, prompts, HEADS, a_c=20)):
                texts.append(generated(model, batch, cached))
        assert torch.equal(*texts)
        with model.hooks(fwd_hooks=majority_correction(model, prompts, HEADS, a_c=20)):
            first = model(batch.tokens, attention_mask=batch.mask)[:, -1].argmax(-1)
        longer = torch.cat([batch.tokens, first[:, None]], 1)
        mask = torch.cat([batch.mask, torch.ones_like(first)[:, None]], 1)
        second = model(longer, attention_mask=mask)[:, -1].argmax(-1)
        assert torch.equal(texts[0][:, -3:-1], torch.stack([first, second], 1))


def generated(model, batch, cached):
    return model.generate(
        batch.tokens, max_new_tokens=3, do_sample=False, use_past_kv_cache=cached, stop_at_eos=False, verbose=False,
        return_type="tokens", attention_mask=batch.mask,
    )  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3"])
def test_a_cache_that_is_lost_is_refused(name):
    model = architectures.build(name, dtype=torch.float32)
    prompts = tiny_prompts(model)
    batch = batch_of(model, prompts)
    same_or_refused(model, batch, lambda: majority_correction(model, prompts, HEADS, a_c=20))


def same_or_refused(model, batch, hooks):
    """A cache that works gives the same text with a correction; one that TransformerLens loses is refused."""
    right = torch.equal(generated(model, batch, True), generated(model, batch, False))
    with model.hooks(fwd_hooks=hooks()):
        expected = generated(model, batch, False)
        if right:
            assert torch.equal(generated(model, batch, True), expected)
        else:
            with pytest.raises(ValueError, match="attention reaches 1 position and not the prompt before"):
                generated(model, batch, True)


@pytest.mark.parametrize("name", HIDDEN)
def test_heads_cannot_write_more_where_their_attention_is_hidden(name):
    model = architectures.build(name, dtype=torch.float32)
    prompts = tiny_prompts(model)
    tokens, mask = batch_of(model, prompts).inputs()
    hooks = majority_correction(model, prompts, HEADS, where="heads")
    with model.hooks(fwd_hooks=hooks), pytest.raises(ValueError, match="take where='stream'"):
        model(tokens, **mask)


@pytest.mark.parametrize(
    "order, ratios", [((0, 0, 0, 0, 1, 1), [0, 2]), ((0, 0, 0, 1, 1, 2), [0, 3 / 2, 3]), ((0, 1, 1, 0), [0, 0])]
)
def test_a_label_is_raised_by_how_many_more_the_most_frequent_one_has(order, ratios):
    """N_maj / N_min at each demonstration of a rarer label; nothing at the most frequent one or elsewhere."""
    model, words = architectures.build("gpt2"), ("w20", "w21", "w22")[: max(order) + 1]
    shown = [(f"w{i}", words[label]) for i, label in enumerate(order)]
    prompt = icl_prompt(model, shown, "w9", words[0], labels=words, separator=" w40 ")
    weights, at_labels = _weights(MatchedRun.of(model, [prompt]), 0.5)
    expected = torch.zeros(1, len(prompt))
    for position, label in zip(prompt.label_positions, order, strict=True):
        expected[0, position] = 0.5 * ratios[label]
        assert at_labels[0, position] == 1
    torch.testing.assert_close(weights, expected)
    assert int(at_labels.sum()) == len(order)


@torch.no_grad()
def test_nothing_is_added_at_zero_and_a_little_at_a_little():
    model = demo.load()
    prompts = from_demo(model, demo.in_context(2, 3, order=(0, 0, 1)))
    tokens = batch_of(model, prompts).tokens
    plain = model(tokens)
    moved = []
    for a_c in (0, 1e-3, 1e-2):
        with model.hooks(fwd_hooks=majority_correction(model, prompts, [(3, 4)], a_c=a_c)):
            moved.append(float((model(tokens) - plain)[:, -1].abs().max()))
    assert moved[0] < 1e-5 and 5 < moved[2] / moved[1] < 20
    with pytest.raises(ValueError, match="a_c must be a number not below 0, got -1e-09"):
        majority_correction(model, prompts, [(3, 4)], a_c=-1e-9)


def test_a_prompt_begun_in_a_cache_is_refused():
    model = architectures.build("bloom", dtype=torch.float32)
    prompts = tiny_prompts(model)[:1]
    tokens = batch_of(model, prompts).tokens
    for begun in (4, tokens.shape[1] - 1):
        _, cache = model(tokens[:, :begun], return_type="logits_and_cache")
        with (
            model.hooks(fwd_hooks=majority_correction(model, prompts, HEADS)),
            pytest.raises(ValueError, match="run them whole before going on with a key-value cache"),
        ):
            model(tokens[:, begun:], past_key_values=cache)


@pytest.mark.parametrize(
    "heads, a_c, error, message",
    [
        ([], 0.1, ValueError, "heads is empty"),
        ([(9, 0)], 0.1, IndexError, r"layer of \(9, 0\) must lie between 0 and 4"),
        ([(1, 0), (1, 0)], 0.1, IndexError, r"\(1, 0\) is named twice"),
        ([(1, 0)], -1, ValueError, "a_c must be a number not below 0, got -1"),
        ([(1, 0)], math.nan, ValueError, "a_c must be a number not below 0, got nan"),
    ],
)
def test_bad_arguments_are_refused(heads, a_c, error, message):
    model = demo.load()
    with pytest.raises(error, match=message):
        majority_correction(model, from_demo(model, demo.in_context(1, 2)), heads, a_c=a_c)
