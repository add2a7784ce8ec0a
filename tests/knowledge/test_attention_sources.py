"""Splits of any head's scores: they sum to the model's own, and each pair is what the weights make of it."""

import pytest
import torch
from transformers.models.llama.modeling_llama import rotate_half

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr import demo

HIDDEN = ("opt", "gptj", "gpt_neo")
SHOWN = [name for name in architectures.BUILDERS if name not in HIDDEN]


@pytest.mark.parametrize("name", SHOWN)
def test_the_pairs_sum_to_the_models_scores(name):
    _, cache = architectures.run(name, batch=1, dtype=torch.float32)
    for layer, head, pos in ((2, 3, -1), (1, 0, 2)):
        found = tna.attention_sources(cache, layer, head, pos)
        at = pos % cache["blocks.0.hook_resid_pre"].shape[1]
        sources = list(found.sources)
        own = cache[f"blocks.{layer}.attn.hook_attn_scores"][0, head, at, sources]
        whole = found.pairs.sum((-1, -2)) + found.position
        capped = whole if found.cap is None else found.cap * (whole / found.cap).tanh()
        assert torch.allclose(capped, own.to(whole), atol=1e-4)
        assert torch.equal(found.score, own.to(found.score))
        if sources == list(range(at + 1)):
            assert torch.allclose(found.score.softmax(0), found.attention, atol=1e-5)
        for side in (found.by_query, found.by_key):
            assert torch.allclose(side.sum(-1), found.pairs.sum((-1, -2)), atol=1e-5)


def test_a_pair_is_what_the_weights_make_of_it():
    """Rotary, by hand: the embedding in the query with an MLP in the key, norms frozen."""
    model = architectures.build("llama")
    _, cache = model.run_with_cache(architectures.prompts(1))
    layer, head, pos, source = 2, 3, 5, 1
    found = tna.attention_sources(cache, layer, head, pos)
    block = model.blocks[layer]
    written = {
        "embed": "blocks.0.hook_resid_pre",
        "L1 mlp": "blocks.1.hook_mlp_out",
        "L0 attn": "blocks.0.hook_attn_out",
    }

    def side(name, at, W):
        normed = cache[written[name]][0, at] / cache[f"blocks.{layer}.ln1.hook_scale"][0, at] * block.ln1.w
        vector = normed @ W
        cos, sin = (cache[f"blocks.{layer}.attn.hook_{trig}"][0, at] for trig in ("cos", "sin"))
        return vector * cos + rotate_half(vector) * sin

    for query, key in (("embed", "L1 mlp"), ("L0 attn", "embed"), ("L1 mlp", "L1 mlp")):
        q = side(query, pos, block.attn.W_Q[head])
        k = side(key, source, block.attn.W_K[head * len(block.attn.W_K) // architectures.HEADS])
        expected = float(q @ k) / len(q) ** 0.5
        mine = found.pairs[source, found.components.index(query), found.components.index(key)]
        assert float(mine) == pytest.approx(expected, abs=1e-7)


def test_heads_sum_to_their_layer():
    _, cache = architectures.run("gemma3", batch=1)
    layers, heads = (tna.attention_sources(cache, 2, 1, heads=split) for split in (False, True))
    mine = [i for i, name in enumerate(heads.components) if name.startswith("L1H") or name == "L1 attn bias"]
    whole = layers.by_key[:, layers.components.index("L1 attn")]
    assert torch.allclose(heads.by_key[:, mine].sum(-1), whole, atol=1e-9)


def test_frame_and_table_say_what_the_tensors_hold():
    _, cache = demo.load().run_with_cache("Tim Duncan plays the sport of")
    found = tna.attention_sources(cache, 3, 6)
    frame = found.to_frame()
    assert len(frame) == found.pairs.numel()
    assert frame.groupby("source")["score"].sum().tolist() == pytest.approx(found.score.tolist(), abs=1e-4)
    rows = found.table().rows
    assert [row[1] for row in rows] == pytest.approx(found.score.tolist())
    assert rows[1][0].endswith("Tim @1") and found.tokens[1].strip() == "Tim"


@pytest.mark.parametrize("name", HIDDEN)
def test_architectures_that_hide_their_scores_are_refused(name):
    _, cache = architectures.run(name, batch=1)
    with pytest.raises(ValueError, match="hides its scores"):
        tna.attention_sources(cache, 1, 0)


def test_what_is_invalid_is_refused():
    _, batch = architectures.run("llama")
    with pytest.raises(ValueError, match="cache holds 2 prompts; attention_sources is of one"):
        tna.attention_sources(batch, 1, 0)
    _, cache = architectures.run("llama", batch=1)
    for layer, head, pos in ((3, 0, -1), (0, 4, -1), (0, 0, 99)):
        with pytest.raises(IndexError):
            tna.attention_sources(cache, layer, head, pos)
