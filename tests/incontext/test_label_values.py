"""Label differences against every head's write at every label, read out one by one, on every architecture."""

import pytest
import torch
import transformers as hf
from transformer_lens.model_bridge import TransformerBridge

from tests import architectures, oracle
from tests.incontext.test_icl_batches import tiny_prompts
from tl_neuron_attr import demo
from tl_neuron_attr.incontext import batch_of, from_demo, label_attention, label_logit_difference


def difference(cache, row, vector, a, b):
    """logit(a) - logit(b) of a vector in the stream, the final norm frozen, before a softcap."""
    model = cache.model
    norm = model.ln_final
    centred = vector if norm.uses_rms_norm else vector - vector.mean(-1, keepdim=True)
    weight = norm.w.double() + (1 if getattr(norm, "uses_weight_offset", False) else 0)
    normed = centred * weight / cache["ln_final.hook_scale"][row, -1].double()
    logits = normed @ model.W_U.double()
    softcapped = getattr(model.cfg, "output_logits_soft_cap", -1.0) > 0
    logits = logits if softcapped else model.adapter.apply_output_logits_transform(logits)
    return logits[..., a] - logits[..., b]


@torch.no_grad()
@pytest.mark.parametrize("compat, dtype", [(False, torch.float32), (False, torch.float64), (True, torch.float32)])
@pytest.mark.parametrize("name", architectures.BUILDERS)
def test_differences_are_those_of_the_writes(name, compat, dtype):
    """In float32 one of the prompts is padded; in float64 none is."""
    model = architectures.build(name, dtype=dtype, compat=compat)
    prompts = tiny_prompts(model)
    batch = batch_of(model, prompts)
    tokens, mask = batch.inputs()
    _, cache = model.run_with_cache(tokens, **mask)
    weighted, plain = (label_logit_difference(cache, prompts, weighted=w, pair=(1, 0)) for w in (True, False))
    for row, prompt in enumerate(prompts):
        shift = batch.tokens.shape[1] - len(prompt)
        at = [shift + position for position in prompt.label_positions]
        for layer in range(architectures.LAYERS):
            writes = oracle.writes(cache, layer, "attn", row, -1).sum(2)[:, at]
            expected = difference(cache, row, writes, prompt.label_ids[1], prompt.label_ids[0])
            torch.testing.assert_close(weighted[row, layer].double(), expected, atol=1e-5, rtol=1e-4)
            attention = cache[f"blocks.{layer}.attn.hook_pattern"][row, :, -1, at].double()
            torch.testing.assert_close(plain[row, layer].double() * attention, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_model_of_one_layer_has_differences_too():
    config = hf.LlamaConfig(
        vocab_size=architectures.VOCAB, hidden_size=32, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    raw = hf.LlamaForCausalLM(config).eval().double()
    raw.config.architectures = ["LlamaForCausalLM"]
    tokenizer = architectures.tokenizer()
    model = TransformerBridge.boot_transformers("tiny", hf_model=raw, tokenizer=tokenizer, device="cpu")
    prompt = tiny_prompts(model)[0]
    _, cache = model.run_with_cache(torch.tensor([prompt.tokens]))
    writes = oracle.writes(cache, 0, "attn", 0, -1).sum(2)[:, list(prompt.label_positions)]
    for pair in ((0, 1), (1, 0)):
        expected = difference(cache, 0, writes, *(prompt.label_ids[label] for label in pair))
        found = label_logit_difference(cache, prompt, pair=pair)
        torch.testing.assert_close(found[0, 0], expected, atol=1e-9, rtol=1e-7)


@torch.no_grad()
def test_a_cache_without_a_batch_dimension_gives_one_without():
    model = demo.load()
    (prompt,) = from_demo(model, demo.in_context(1, 4))
    _, cache = model.run_with_cache(batch_of(model, [prompt]).tokens)
    batched = label_logit_difference(cache, [prompt])
    _, single = model.run_with_cache(batch_of(model, [prompt]).tokens, remove_batch_dim=True)
    torch.testing.assert_close(label_logit_difference(single, prompt), batched[0])
    torch.testing.assert_close(label_attention(single, prompt), label_attention(cache, prompt)[0])


@torch.no_grad()
def test_labels_and_caches_that_will_not_do_are_refused():
    model = demo.load()
    prompts = from_demo(model, demo.in_context(2, 4))
    _, cache = model.run_with_cache(batch_of(model, prompts).tokens)
    with pytest.raises(IndexError, match="pair must lie between 0 and 1, got 2"):
        label_logit_difference(cache, prompts, pair=(0, 2))
    with pytest.raises(ValueError, match=r"pair must be two different labels, got \(1, 1\)"):
        label_logit_difference(cache, prompts, pair=(1, 1))
    with pytest.raises(ValueError, match=r"cache is of another prompt than prompts\[0\]"):
        label_logit_difference(cache, prompts[::-1])
    with pytest.raises(ValueError, match="prompts is empty"):
        label_logit_difference(cache, [])


@torch.no_grad()
def test_on_the_bundled_model_deep_heads_copy_the_label_they_read():
    """The paper's claim: positive at foo, negative at bar, for the heads that attend to labels."""
    model = demo.load()
    prompts = from_demo(model, demo.in_context(60, 4, counts=(2, 2), seed=8))
    _, cache = model.run_with_cache(batch_of(model, prompts).tokens)
    found, attention = label_logit_difference(cache, prompts), label_attention(cache, prompts).sum(-1).mean(0)
    sequence = torch.tensor([prompt.sequence for prompt in prompts])
    foo, bar = (found.permute(1, 2, 0, 3)[..., sequence == label].mean(-1) for label in (0, 1))
    readers = (attention > 0.5) & (torch.arange(len(attention))[:, None] >= 2)
    assert int(readers.sum()) >= 5
    assert float(((foo > bar) & readers).sum() / readers.sum()) >= 0.9
    strongest = (foo - bar).masked_fill(~readers, -1).flatten().topk(5).indices
    assert bool((foo.flatten()[strongest] > 0.02).all()) and bool((bar.flatten()[strongest] < -0.02).all())
