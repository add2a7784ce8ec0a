"""A padded batch gives what each prompt gives alone, on every architecture."""

import copy

import pytest
import torch

from tests import architectures
from tl_neuron_attr import demo
from tl_neuron_attr.incontext import (
    batch_of,
    from_demo,
    icl_batches,
    icl_prompt,
    label_attention,
    outcomes,
    outcomes_without,
)
from tl_neuron_attr.incontext.icl_batches import positions_of_labels
from tl_neuron_attr.incontext.static_scores import static_scores
from tl_neuron_attr.model.cache_checks import needed_by
from tl_neuron_attr.model.stream import Stream


def tiny_prompts(model):
    """Two prompts of as many demonstrations; of different lengths, but for a float64 model."""
    long = icl_prompt(model, [("w5 w6 w7", "w1"), ("w8", "w2"), ("w9 w3", "w1")], "w4 w4", "w2", separator=" w0 ")
    words = ("w5", "w8 w3", "w9") if model.W_U.dtype == torch.float32 else ("w5 w5", "w8 w3 w3", "w9 w8")
    short = icl_prompt(model, list(zip(words, ("w1", "w2", "w2"), strict=True)), "w7", "w1", separator=" w0 ")
    return [long, short]


@torch.no_grad()
@pytest.mark.parametrize("name", architectures.BUILDERS)
def test_padding_changes_nothing(name):
    model = architectures.build(name, dtype=torch.float32)
    prompts = tiny_prompts(model)
    batch = batch_of(model, prompts)
    assert batch.mask is not None and batch.tokens.shape == batch.mask.shape == (2, len(prompts[0]))
    tokens, mask = batch.inputs()
    together, cache = model.run_with_cache(tokens, **mask)
    of_labels = label_attention(cache, prompts)
    for row, prompt in enumerate(prompts):
        alone, own = model.run_with_cache(torch.tensor([prompt.tokens]))
        torch.testing.assert_close(together[row, -1], alone[0, -1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(of_labels[row], label_attention(own, prompt)[0], atol=1e-5, rtol=1e-5)
        for layer in range(architectures.LAYERS):
            pattern = own[f"blocks.{layer}.attn.hook_pattern"][0, :, -1, list(prompt.label_positions)]
            torch.testing.assert_close(of_labels[row, layer], pattern, atol=1e-5, rtol=1e-5)


def with_pad(model, pad):
    """The model with a tokenizer whose pad token is another one, or none."""
    model.tokenizer = copy.deepcopy(model.tokenizer)
    model.tokenizer.pad_token = None if pad is None else getattr(model.tokenizer, f"{pad}_token")
    return model


@torch.no_grad()
@pytest.mark.parametrize("pad", ["eos", "bos", None])
@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "gemma3", "neox_parallel"])
def test_each_prompt_gets_its_own_numbers_whatever_pads(name, pad):
    """Prompts that begin with the token that pads the others, and prompts that do not."""
    model = with_pad(architectures.build(name, dtype=torch.float32), pad)
    prompts = tiny_prompts(model)
    assert batch_of(model, prompts).mask is not None
    together, alone = (outcomes(model, prompts, batch_size=n) for n in (8, 1))
    static, own_static = (static_scores(model, prompts, batch_size=n) for n in (8, 1))
    sets = [[(0, 1)], [(2, 0), (1, 3)]]
    zeroed, own_zeroed = (outcomes_without(model, prompts, sets, batch_size=n) for n in (8, 1))
    for one, other in ((together, alone), (zeroed, own_zeroed)):
        torch.testing.assert_close(one.log_prob, other.log_prob, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(one.log_odds, other.log_odds, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(static.increase, own_static.increase, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(static.attention, own_static.attention, atol=1e-5, rtol=1e-5)
    for i, prompt in enumerate(prompts):
        log_p = model(torch.tensor([prompt.tokens]))[0, -1].log_softmax(-1)
        torch.testing.assert_close(together.log_prob[i], log_p[prompt.label_ids[prompt.gold]], atol=1e-5, rtol=1e-5)


def test_batches_hold_every_prompt_once_the_shortest_first():
    model = demo.load()
    prompts = [p for k in (4, 2, 3) for p in from_demo(model, demo.in_context(5, k))]
    found = list(icl_batches(model, prompts, batch_size=4))
    assert sorted(i for b in found for i in b.indices) == list(range(15))
    lengths = [len(prompts[i]) for b in found for i in b.indices]
    assert lengths == sorted(lengths)
    for batch in found:
        for i, row in zip(batch.indices, batch.tokens.tolist(), strict=True):
            assert row[-len(prompts[i]) :] == list(prompts[i].tokens) and set(row[: -len(prompts[i])]) <= {0}
    assert found[0].mask is None and not all(b.mask is None for b in found)


def test_a_float64_model_is_not_padded():
    model = architectures.build("llama")
    same = tiny_prompts(model)
    other = icl_prompt(model, [("w5", "w1"), ("w8", "w2")], "w7", "w1", separator=" w0 ")
    found = list(icl_batches(model, [same[0], other, same[1]], batch_size=8))
    assert [batch.indices for batch in found] == [[1], [0, 2]] and all(batch.mask is None for batch in found)
    with pytest.raises(ValueError, match=r"prompts are of \[9, 16\] tokens, and TransformerLens gives NaN"):
        batch_of(model, [same[0], other])


def test_copies_are_repeated_with_their_mask():
    model = demo.load()
    batch = batch_of(model, [from_demo(model, demo.in_context(1, k))[0] for k in (2, 3)])
    tokens, mask = batch.inputs(3)
    assert torch.equal(tokens, torch.cat([batch.tokens] * 3))
    assert torch.equal(mask["attention_mask"], torch.cat([batch.mask] * 3))


def test_sets_that_cannot_share_a_batch_are_refused():
    model = demo.load()
    one, other = from_demo(model, demo.in_context(2, 2)), from_demo(model, demo.in_context(1, 2, labels=("A", "B")))
    with pytest.raises(ValueError, match="prompts is empty"):
        list(icl_batches(model, [], batch_size=2))
    with pytest.raises(ValueError, match=r"prompts have different labels: \[\('A', 'B'\), \('foo', 'bar'\)\]"):
        list(icl_batches(model, [*one, *other], batch_size=2))
    with pytest.raises(ValueError, match=r"batch_size must be between 1 and 2\*\*62, got 0"):
        list(icl_batches(model, one, batch_size=0))


def test_a_cache_of_other_prompts_is_refused():
    model = demo.load()
    prompts = from_demo(model, demo.in_context(3, 2))
    _, cache = model.run_with_cache(batch_of(model, prompts[:2]).tokens)
    with pytest.raises(ValueError, match="cache holds 2 prompts and prompts 3"):
        positions_of_labels(Stream(cache), prompts)
    with pytest.raises(ValueError, match=r"cache is of another prompt than prompts\[0\]"):
        positions_of_labels(Stream(cache), prompts[1::-1])
    mixed = [prompts[0], from_demo(model, demo.in_context(1, 3))[0]]
    with pytest.raises(ValueError, match=r"prompts have \[2, 3\] demonstrations"):
        positions_of_labels(Stream(cache), mixed)
    needed = lambda name: needed_by(("attn",))(name) and name != "embed.hook_in"  # noqa: E731
    _, blind = model.run_with_cache(batch_of(model, prompts[:2]).tokens, names_filter=needed)
    assert positions_of_labels(Stream(blind), prompts[:2]).tolist() == [list(p.label_positions) for p in prompts[:2]]
