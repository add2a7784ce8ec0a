"""Scores of a run that keeps little are those of a run that keeps everything."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.incontext.static_scores import static_scores
from tl_neuron_attr.model.run import run_at_last

POS = torch.tensor([6, 4])
NAMES = ["gpt2", "gemma2", "olmo2", "bloom", "gptj", "opt", "qwen2_moe", "qwen3_next", "lfm2"]


@pytest.mark.filterwarnings("ignore:the model caps its logits")
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_the_same_bit_for_bit(name):
    model, tokens = architectures.build(name), architectures.prompts()
    full, little = model.run_with_cache(tokens)[1], tna.run(model, tokens, pos=POS)
    for function in (tna.attribute_heads, tna.attribute_mlp_neurons, tna.attribute_attn_neurons):
        assert torch.equal(function(little, 5, pos=POS), function(full, 5, pos=POS))
    value = [tna.value_neurons(cache, 5, 12, pos=POS) for cache in (little, full)]
    assert value[0] == value[1]
    query = [tna.query_neurons(cache, value[1], 12, pos=POS) for cache in (little, full)]
    assert query[0] == query[1]
    numbers = [sum(each.numel() for each in cache.cache_dict.values()) for cache in (little, full)]
    assert numbers[0] < 0.8 * numbers[1]


@torch.no_grad()
def test_the_last_position_is_scored_by_default_also_where_it_does_not_see_the_first():
    model, tokens = architectures.build("gemma4"), architectures.prompts()  # a window of four positions
    little, full = tna.run(model, tokens), model.run_with_cache(tokens)[1]
    assert not little["blocks.0.attn.hook_pattern"][..., 0].any()
    assert torch.equal(tna.attribute_heads(little, 5), tna.attribute_heads(full, 5))


def test_no_pattern_is_kept_beyond_its_row():
    cache = tna.run(architectures.build("llama"), architectures.prompts())
    shapes = {name: each.shape for name, each in cache.cache_dict.items() if "pattern" in name or "scores" in name}
    assert len(shapes) == architectures.LAYERS and all(shape == (2, 4, 1, 7) for shape in shapes.values())


def test_no_layer_still_holds_its_pattern_when_the_next_one_runs():
    model, tokens = architectures.build("gpt2"), architectures.prompts()

    def holding():
        return sum(vars(block.attn).get("_pattern") is not None for block in model.blocks)

    seen = []
    with model.hooks(fwd_hooks=[("blocks.2.hook_resid_pre", lambda stream, hook: seen.append(holding()))]):
        tna.run(model, tokens)
        model.run_with_cache(tokens)
    assert seen == [0, 2] and holding() == architectures.LAYERS  # TransformerLens keeps them, or this shows nothing


def test_only_the_sites_named_are_kept():
    cache = tna.run(architectures.build("llama"), architectures.prompts(), sites=["mlp"])
    assert not any("pattern" in name for name in cache.cache_dict)
    assert len(tna.value_neurons(cache, 5, 4, sites="mlp").labels[0]) == 4
    with pytest.raises(ValueError, match=r"cache lacks blocks.0.attn.hook_pattern"):
        tna.value_neurons(cache, 5, 4)


def test_wrong_sites_and_positions_are_refused():
    model, tokens = architectures.build("llama"), architectures.prompts()
    with pytest.raises((TypeError, ValueError), match="sites"):
        tna.run(model, tokens, sites=["heads"])
    with pytest.raises(IndexError, match="pos must lie between -7 and 6"):
        tna.run(model, tokens, pos=7)


def test_a_batch_with_a_mask_is_run_as_it_is():
    model, tokens = architectures.build("llama"), architectures.prompts()
    mask = torch.ones_like(tokens)
    mask[1, 5:] = 0
    full = model.run_with_cache(tokens, attention_mask=mask)[1]
    little = tna.run(model, tokens, pos=POS, attention_mask=mask)
    assert torch.equal(tna.attribute_heads(little, 5, pos=POS), tna.attribute_heads(full, 5, pos=POS))


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "olmo2", "opt", "qwen2_moe"])
@pytest.mark.filterwarnings("ignore:the model caps its logits")
def test_a_run_that_unembeds_the_last_position_scores_it_as_a_whole_run_does(name):
    model, tokens = architectures.build(name), architectures.prompts()
    whole, full = model.run_with_cache(tokens)
    shapes = []
    watch = ("unembed.hook_out", lambda logits, hook: shapes.append(logits.shape[1]))
    with model.hooks(fwd_hooks=[watch]):
        logits, little = run_at_last(model, tokens, tna.hooks_needed(model))
    assert shapes == [1]
    torch.testing.assert_close(logits, whole[:, -1])
    for function in (tna.attribute_heads, tna.attribute_mlp_neurons):
        torch.testing.assert_close(function(little, 5), function(full, 5))


def test_scores_at_a_position_that_was_not_unembedded_are_refused():
    model = architectures.build("llama")
    _, cache = run_at_last(model, architectures.prompts(), tna.hooks_needed(model))
    with pytest.raises(ValueError, match="the readout of the final stream is not the model's logits"):
        tna.attribute_heads(cache, 5, pos=2)


@pytest.mark.parametrize("measure", ["static_scores", "attention_shift", "learned_metric", "function_vector"])
def test_what_is_measured_at_the_last_position_unembeds_it_alone(measure):
    model, shapes = tna.demo.load(), []
    prompts = tna.incontext.from_demo(model, tna.demo.in_context(4, 4, counts=(2, 2)))
    given = {} if measure == "static_scores" else {"heads": [(3, 2)]}
    function = static_scores if measure == "static_scores" else getattr(tna.incontext, measure)
    with model.hooks(fwd_hooks=[("unembed.hook_out", lambda logits, hook: shapes.append(logits.shape[1]))]):
        function(model, prompts, **given)
    assert shapes and set(shapes) == {1}
