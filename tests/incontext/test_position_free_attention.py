"""Heads attend as queries and keys without positions would: against models whose positions are switched off."""

import pytest
import torch

from tests import architectures
from tests.incontext import handmade
from tests.incontext.test_icl_batches import tiny_prompts
from tests.incontext.test_majority_correction import CACHED, HIDDEN, generated, same_or_refused
from tl_neuron_attr import demo
from tl_neuron_attr.incontext import batch_of, reordered
from tl_neuron_attr.incontext.position_free_attention import position_free_attention

ROTARY = [name for name in architectures.BUILDERS if name not in (*HIDDEN, "gpt2", "bloom")]
ALL = list(range(architectures.HEADS))


def without_rotation(layer):
    return [
        (f"blocks.{layer}.attn.hook_cos", lambda value, hook: torch.ones_like(value)),
        (f"blocks.{layer}.attn.hook_sin", lambda value, hook: torch.zeros_like(value)),
    ]


def run(model, prompts, hooks):
    tokens, mask = batch_of(model, prompts).inputs()
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        return model.run_with_cache(tokens, **mask)


@pytest.mark.parametrize("name", ROTARY)
def test_a_layers_heads_attend_as_if_nothing_were_rotated(name):
    model = architectures.build(name, dtype=torch.float32)
    prompts = tiny_prompts(model)
    expected, unrotated = run(model, prompts, without_rotation(1))
    found, cache = run(model, prompts, position_free_attention(model, [(1, head) for head in ALL]))
    plain, as_it_was = run(model, prompts, [])
    assert float((expected - plain)[:, -1].abs().max()) > 1e-3
    torch.testing.assert_close(found[:, -1], expected[:, -1], atol=1e-5, rtol=1e-4)
    some, cache = run(model, prompts, position_free_attention(model, [(1, 2)]))
    pattern = "blocks.1.attn.hook_pattern"
    for head in ALL:
        source = unrotated if head == 2 else as_it_was
        torch.testing.assert_close(cache[pattern][:, head, -1], source[pattern][:, head, -1], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(some[:, -1], plain[:, -1], atol=1e-4)


def by_hand(q, k, scale):
    """Causal attention of one prompt's head, position by position."""
    rows = [torch.cat([(q[i] @ k[: i + 1].T * scale).softmax(-1), torch.zeros(len(q) - i - 1)]) for i in range(len(q))]
    return torch.stack(rows)


def test_bloom_attends_without_its_bias():
    model = architectures.build("bloom", dtype=torch.float32)
    prompts = tiny_prompts(model)[:1]
    _, cache = run(model, prompts, position_free_attention(model, [(1, 2), (2, 0)]))
    for layer, head in ((1, 2), (2, 0)):
        q, k = (cache[f"blocks.{layer}.attn.hook_{side}"][0, :, head] for side in "qk")
        expected = by_hand(q, k, 8**-0.5)
        torch.testing.assert_close(cache[f"blocks.{layer}.attn.hook_pattern"][0, head], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("compat", [False, True])
def test_gpt2_attends_without_what_the_position_brings_to_the_heads_input(compat):
    model = architectures.build("gpt2", dtype=torch.float32, compat=compat)
    prompts = tiny_prompts(model)[:1]
    _, cache = run(model, prompts, position_free_attention(model, [(0, 1), (1, 2)]))
    position = cache["hook_pos_embed"][0]
    for layer, head in ((0, 1), (1, 2)):
        block = model.blocks[layer]
        bare = cache[f"blocks.{layer}.hook_resid_pre"][0] - position
        bare = (bare - bare.mean(-1, keepdim=True)) / cache[f"blocks.{layer}.ln1.hook_scale"][0] * block.ln1.w
        attn = block.attn
        q = (bare + block.ln1.b) @ attn.W_Q[head] + attn.b_Q[head]
        k = (bare + block.ln1.b) @ attn.W_K[head] + attn.b_K[head]
        expected = by_hand(q.detach(), k.detach(), 8**-0.5)
        torch.testing.assert_close(cache[f"blocks.{layer}.attn.hook_pattern"][0, head], expected, atol=1e-5, rtol=1e-4)


def test_it_is_what_was_worked_out_on_paper_and_forgets_the_order():
    model = handmade.build()
    prompts = handmade.prompts(model, 6)
    for group in (prompts, reordered(model, prompts, [3, 1, 0, 2])):
        logits, _ = run(model, group, position_free_attention(model, [(1, 0)]))
        for i, prompt in enumerate(prompts):
            expected = handmade.label_logits(prompt, rotated=False)
            assert logits[i, -1, [handmade.FOO, handmade.BAR]].tolist() == pytest.approx(expected, abs=2e-6)
            assert expected != pytest.approx(handmade.label_logits(prompt), abs=1e-3)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "gemma2"])
def test_only_queries_from_the_prompts_end_on_if_prompts_are_given(name):
    model = architectures.build(name, dtype=torch.float32)
    prompts = tiny_prompts(model)
    heads = [(1, 1), (1, 3)]
    _, everywhere = run(model, prompts, position_free_attention(model, heads))
    _, last = run(model, prompts, position_free_attention(model, heads, prompts=prompts))
    _, plain = run(model, prompts, [])
    key = "blocks.1.attn.hook_pattern"
    assert torch.equal(last[key][:, :, :-1], plain[key][:, :, :-1])
    assert torch.equal(last[key][:, :, -1], everywhere[key][:, :, -1])
    assert not torch.equal(last[key][:, :, -1], plain[key][:, :, -1])


def test_a_share_is_a_mean_of_both_patterns():
    model = architectures.build("llama", dtype=torch.float32)
    prompts = tiny_prompts(model)[:1]
    key = "blocks.1.attn.hook_pattern"
    found = [run(model, prompts, position_free_attention(model, [(1, 1)], share=s))[1][key] for s in (0, 0.25, 1)]
    torch.testing.assert_close(found[0], run(model, prompts, [])[1][key], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found[1], 0.75 * found[0] + 0.25 * found[2])


@torch.no_grad()
@pytest.mark.parametrize("name", CACHED[:3])
@pytest.mark.parametrize("given", [False, True])
def test_generation_is_the_same_with_and_without_a_cache(name, given):
    model = architectures.build(name, dtype=torch.float32)
    prompts = tiny_prompts(model)
    batch = batch_of(model, prompts)
    heads = [(layer, head) for layer in range(architectures.LAYERS) for head in ALL]
    texts = []
    for cached in (True, False):
        with model.hooks(fwd_hooks=position_free_attention(model, heads, prompts=prompts if given else None)):
            texts.append(generated(model, batch, cached))
            assert torch.equal(generated(model, batch, cached), texts[-1])
    assert torch.equal(*texts)
    grown, ones = texts[0][:, :-1], torch.ones(2, 2, dtype=torch.long)
    with model.hooks(fwd_hooks=position_free_attention(model, heads, prompts=prompts if given else None)):
        logits = model(grown, attention_mask=torch.cat([batch.mask, ones], 1))
    assert torch.equal(logits[:, -1].argmax(-1), texts[0][:, -1])


@torch.no_grad()
def test_caches_it_has_not_seen_are_refused():
    model = architectures.build("bloom", dtype=torch.float32)
    tokens = architectures.prompts(1, 9)
    _, cache = model(tokens[:, :8], return_type="logits_and_cache")
    with (
        model.hooks(fwd_hooks=position_free_attention(model, [(1, 0)])),
        pytest.raises(
            ValueError, match="layer 1 attends to 9 positions, of which 8 are in a key-value cache that these"
        ),
    ):
        model(tokens[:, 8:], past_key_values=cache)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("given", [False, True])
def test_a_cache_that_is_lost_is_refused(name, given):
    model = architectures.build(name, dtype=torch.float32)
    prompts = tiny_prompts(model)
    batch = batch_of(model, prompts)
    same_or_refused(model, batch, lambda: position_free_attention(model, [(1, 0)], prompts=prompts if given else None))


@pytest.mark.parametrize("name", HIDDEN)
def test_attention_no_hook_reaches_is_refused(name):
    model = architectures.build(name, dtype=torch.float32)
    with pytest.raises(ValueError, match="OPT, GPT-J and GPT-Neo leave attention to Hugging Face"):
        run(model, tiny_prompts(model), position_free_attention(model, [(1, 0)]))


def test_scores_that_are_something_else_are_refused():
    model = architectures.build("llama", dtype=torch.float32)
    louder = [("blocks.1.attn.hook_attn_scores", lambda value, hook: value * 1.1)]
    with pytest.raises(ValueError, match="layer 1: the attention scores are not what queries and keys give"):
        run(model, tiny_prompts(model), [*louder, *position_free_attention(model, [(1, 0)])])
    run(model, tiny_prompts(model), [*louder, *position_free_attention(model, [(2, 0)])])


def test_bad_arguments_are_refused():
    model = demo.load()
    with pytest.raises(ValueError, match="heads is empty"):
        position_free_attention(model, [])
    with pytest.raises(ValueError, match=r"share must lie between 0 and 1, got 1\.5"):
        position_free_attention(model, [(1, 0)], share=1.5)
    with pytest.raises(IndexError, match=r"head of \(1, 8\) must lie between 0 and 7"):
        position_free_attention(model, [(1, 8)])
    model.cfg.positional_embedding_type = "none"
    with pytest.raises(ValueError, match="the model's positions are of the kind 'none'"):
        position_free_attention(model, [(1, 0)])
