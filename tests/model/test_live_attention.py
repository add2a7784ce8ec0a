"""What a run shows of a layer's attention, and what its weights make of that."""

import pytest
import torch

from tests import architectures
from tl_neuron_attr.model.live_attention import LiveAttention, at_the_end

LAYER = 1


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "olmo2", "gemma3", "bloom"])
def test_queries_keys_values_and_pattern_are_kept(name):
    model = architectures.build(name)
    live = LiveAttention.of(model, LAYER)
    with model.hooks(fwd_hooks=[*live.queries_and_keys(), *live.values_and_pattern()]):
        _, cache = model.run_with_cache(architectures.prompts())
    at = f"blocks.{LAYER}.attn."
    for side in ("q", "k"):
        expected = cache[f"{at}hook_{side}"].transpose(1, 2)
        if (normed := f"{at}hook_{side}_normed") in cache:
            expected = cache[normed]
            expected = expected if expected.ndim == 4 else expected.unflatten(-1, (-1, 8)).transpose(1, 2)
        assert torch.equal(live.kept[side], expected)
    assert torch.equal(live.kept["v"], cache[f"{at}hook_v"])
    assert torch.equal(live.kept["pattern"], cache[f"{at}hook_pattern"])


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "olmo2", "granite", "falcon"])
def test_what_heads_read_is_written_as_the_layer_writes_it_biases_aside(name):
    model = architectures.build(name)
    live = LiveAttention.of(model, LAYER)
    with model.hooks(fwd_hooks=live.values_and_pattern()):
        _, cache = model.run_with_cache(architectures.prompts())
    wrote = live.written(cache[f"blocks.{LAYER}.attn.hook_z"][:, 3], 3)
    bias = torch.zeros(32, dtype=torch.float64)
    if (own := getattr(model.blocks[LAYER].attn, "b_O", None)) is not None:
        bias = own
    expected = cache[f"blocks.{LAYER}.hook_attn_out"][:, 3] - bias
    torch.testing.assert_close(wrote, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_positions_bring_is_what_queries_lose_without_them():
    """GPT-2, two prompts, one with other positions: norm scales frozen, the rest of the input read as it was."""
    model = architectures.build("gpt2")
    live = LiveAttention.of(model, LAYER)
    tokens, mask = architectures.prompts(2), torch.ones(2, 7, dtype=torch.long)
    mask[1, :2] = 0
    with model.hooks(fwd_hooks=[*live.queries_and_keys(), *live.positions()]):
        _, cache = model.run_with_cache(tokens, attention_mask=mask)
    block, embedding = model.blocks[LAYER], cache["hook_pos_embed"]
    embedding = embedding.expand(2, -1, -1)
    for side in ("q", "k"):
        found = live.of_positions(side)
        W, b = getattr(block.attn, f"W_{side.upper()}"), getattr(block.attn, f"b_{side.upper()}")
        for row in range(2):
            for pos in range(7):
                bare = cache[f"blocks.{LAYER}.hook_resid_pre"][row, pos] - embedding[row, pos]
                bare = (bare - bare.mean()) / cache[f"blocks.{LAYER}.ln1.hook_scale"][row, pos] * block.ln1.w
                for head in range(4):
                    without = (bare + block.ln1.b) @ W[head] + b[head]
                    brought = live.kept[side][row, head, pos] - without
                    torch.testing.assert_close(found[row % len(found), head, pos], brought, atol=1e-5, rtol=1e-5)


def test_the_end_of_the_stream_is_that_of_the_last_layer():
    model, seen = architectures.build("llama"), []
    with torch.no_grad(), model.hooks(fwd_hooks=[at_the_end(model, lambda x, hook: seen.append(x))]):
        _, cache = model.run_with_cache(architectures.prompts())
    assert torch.equal(seen[0], cache[f"blocks.{architectures.LAYERS - 1}.hook_resid_post"])


def test_a_layer_out_of_range_is_named():
    with pytest.raises(IndexError, match="layer must lie between 0 and 2, got 3"):
        LiveAttention.of(architectures.build("llama"), 3)
