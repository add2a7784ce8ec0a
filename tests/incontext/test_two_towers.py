"""Splits of scores against the model itself with a component's part taken out of its queries or keys, everywhere."""

import math

import pytest
import torch
import transformers as hf

from tests import architectures, oracle
from tests.incontext import handmade
from tests.incontext.test_icl_batches import tiny_prompts
from tl_neuron_attr import demo
from tl_neuron_attr.incontext import (
    batch_of,
    from_demo,
    label_attention,
    label_scores,
    needed_by_towers,
    reversed_labels,
    two_towers,
)

HIDDEN = {"opt": "AttentionBridge", "gptj": "AttentionBridge", "gpt_neo": "AttentionBridge"}
SHOWN = [name for name in architectures.BUILDERS if name not in HIDDEN]
LAYER, HEAD = 2, 3


def cached(model, prompts):
    tokens, mask = batch_of(model, prompts).inputs()
    return tokens, mask, model.run_with_cache(tokens, **mask)[1]


def writes(cache, row, pos):
    """What each component below the layer wrote at a position, by name; attention head by head."""
    found = {"embed": cache["blocks.0.hook_resid_pre"][row, pos].double()}
    for layer in range(LAYER):
        by_head = oracle.writes(cache, layer, "attn", row, pos).sum((1, 2))
        found |= {f"L{layer}H{h}": vector for h, vector in enumerate(by_head)}
        found[f"L{layer} attn bias"] = cache[f"blocks.{layer}.hook_attn_out"][row, pos].double() - by_head.sum(0)
        found[f"L{layer} mlp"] = cache[f"blocks.{layer}.hook_mlp_out"][row, pos].double()
    return found


def part(cache, side, row, pos, vector):
    """What a vector of the stream is in the query or key that the head uses, before it is turned: slowly, by hand."""
    block = cache.model.blocks[LAYER]
    if f"blocks.{LAYER}.ln1.hook_scale" in cache:
        centred = vector if block.ln1.uses_rms_norm else vector - vector.mean()
        weight = block.ln1.w.double() + (1 if getattr(block.ln1, "uses_weight_offset", False) else 0)
        vector = centred * weight / cache[f"blocks.{LAYER}.ln1.hook_scale"][row, pos].double()
    W = block.attn.W_Q if side == "q" else block.attn.W_K
    own = HEAD * len(W) // architectures.HEADS
    x = vector @ W[own].double()
    if f"blocks.{LAYER}.attn.{side}_norm.hook_scale" not in cache:
        return own, x
    norm, scale = getattr(block.attn, f"{side}_norm"), cache[f"blocks.{LAYER}.attn.{side}_norm.hook_scale"].double()
    weight = norm.w.double() + (1 if getattr(norm, "uses_weight_offset", False) else 0)
    if scale.ndim == 3:
        return own, x * weight[own * len(x) : (own + 1) * len(x)] / scale[row, pos]
    return own, x * weight / scale[row, own, pos]


def scores_without(model, inputs, cache, side, row, pos, vector, label):
    """The model's score of a label with a component taken out of the query, or of the key, and the cap undone."""
    tokens, mask = inputs
    own, gone = part(cache, side, row, pos, vector)
    name = f"blocks.{LAYER}.attn.hook_{side}"
    normed = f"{name}_normed" in cache

    def take_out(x, hook):
        x = x.clone()
        if not normed:
            x[row, pos, own] -= gone.to(x)
        elif x.ndim == 4:
            x[row, own, pos] -= gone.to(x)
        else:
            x[row, pos, own * len(gone) : (own + 1) * len(gone)] -= gone.to(x)
        return x

    kept = []
    hooks = [
        (f"{name}_normed" if normed else name, take_out),
        (f"blocks.{LAYER}.attn.hook_attn_scores", lambda s, hook: kept.append(s)),
    ]
    model.run_with_hooks(tokens, fwd_hooks=hooks, **mask)
    return uncapped(model, kept[0][row, HEAD, -1, label].double())


def uncapped(model, score):
    cap = getattr(model.blocks[LAYER].attn.original_component, "attn_logit_softcapping", None)
    return score if cap is None else cap * torch.atanh(score / cap)


@torch.no_grad()
@pytest.mark.parametrize("compat, dtype", [(False, torch.float32), (False, torch.float64), (True, torch.float32)])
@pytest.mark.parametrize("name", SHOWN)
def test_what_a_component_gives_is_lost_without_it(name, compat, dtype):
    """In float32 the second prompt is padded; in float64 none is."""
    model = architectures.build(name, dtype=dtype, compat=compat)
    prompts = tiny_prompts(model)
    tokens, mask, cache = cached(model, prompts)
    towers = two_towers(cache, prompts, layer=LAYER, head=HEAD, heads=True)
    whole = two_towers(cache, prompts, layer=LAYER, head=HEAD)
    row, label = 1, 1
    place = tokens.shape[1] - len(prompts[row]) + prompts[row].label_positions[label]
    exact = uncapped(model, towers.score.double())[row, label]
    for side, pos, parts in (("q", tokens.shape[1] - 1, towers.by_query), ("k", place, towers.by_key)):
        lost: dict[str, float] = {}
        for component, vector in writes(cache, row, pos).items():
            without = scores_without(model, (tokens, mask), cache, side, row, pos, vector, place)
            lost[component] = float(exact - without)
        found = dict(zip(towers.components, parts[row, label].tolist(), strict=True))
        assert {c: found[c] for c in lost} == pytest.approx(lost, abs=2e-5, rel=1e-4)
        assert list(found) == [*lost, "bias"]
        merged = {"embed": lost["embed"]}
        for layer in range(LAYER):
            merged[f"L{layer} attn"] = sum(v for c, v in lost.items() if c.startswith((f"L{layer}H", f"L{layer} a")))
            merged[f"L{layer} mlp"] = lost[f"L{layer} mlp"]
        coarse = (whole.by_query if side == "q" else whole.by_key)[row, label].tolist()
        assert dict(zip(whole.components, coarse, strict=True)) == pytest.approx(
            merged | {"bias": found["bias"]}, abs=5e-5, rel=1e-4
        )


@torch.no_grad()
@pytest.mark.parametrize(
    "name, dtype",
    [(name, dtype) for name in SHOWN for dtype in (torch.float32, torch.float64)]
    + [(name, torch.bfloat16) for name in ("gpt2", "llama", "gemma2", "bloom")],
)
def test_scores_are_the_models_and_the_pairs_sum_to_them(name, dtype):
    model = architectures.build(name, dtype=dtype)
    prompts = tiny_prompts(model)[:1]
    _, _, cache = cached(model, prompts)
    at = list(prompts[0].label_positions)
    close = {"atol": 3e-2, "rtol": 3e-2} if dtype == torch.bfloat16 else {"atol": 1e-5, "rtol": 1e-4}
    scores, attention = label_scores(cache, prompts), label_attention(cache, prompts)
    for layer in range(architectures.LAYERS):
        read = cache[f"blocks.{layer}.attn.hook_attn_scores"][:, :, -1, at]
        assert torch.equal(scores[:, layer], read.to(scores.dtype))
        for head in range(architectures.HEADS):
            towers = two_towers(cache, prompts, layer=layer, head=head)
            assert torch.equal(towers.score[0], scores[0, layer, head])
            assert torch.equal(towers.attention[0], attention[0, layer, head])
            total = towers.pairs.sum((-1, -2)) + towers.position
            capped = total if towers.cap is None else towers.cap * torch.tanh(total / towers.cap)
            torch.testing.assert_close(capped, towers.score, **close)
            if f"blocks.{layer}.attn.hook_rot_q" in cache:
                rotated = cache[f"blocks.{layer}.attn.hook_rot_q"]
                rotated = rotated if rotated.shape[1] != architectures.HEADS else rotated.transpose(1, 2)
                torch.testing.assert_close(towers.query, rotated[:, -1, head].to(towers.query), **close)
    assert (name == "bloom") == bool(towers.position.any())
    assert (name == "gemma2") == (towers.cap is not None)


@torch.no_grad()
def test_the_handmade_head_compares_features_by_its_metric():
    """Every score is worked out on paper, and so is what wrote it: features by layer 0's head, the rest by tokens."""
    model = handmade.build()
    prompts = handmade.prompts(model, 6)
    _, cache = model.run_with_cache(batch_of(model, prompts).tokens)
    towers = two_towers(cache, prompts, layer=1, head=0)
    assert towers.components == ("embed", "L0 attn", "L0 mlp", "bias")
    close = {"abs": 1e-5, "rel": 1e-5}
    for i, prompt in enumerate(prompts):
        query, texts, _ = handmade.parts(prompt)
        assert towers.score[i].tolist() == pytest.approx(handmade.label_scores(query, texts), **close)
        assert towers.attention[i].tolist() == pytest.approx(handmade.attention(query, texts), **close)
        for j in range(len(texts)):
            back = handmade.distance(texts, j)
            label = handmade.U * math.cos(0.001 * back) / handmade.SCALE_1**2 / math.sqrt(handmade.D_HEAD)
            metric = handmade.score(query, texts[j], back, label=False)
            expected = torch.zeros(4, 4, dtype=torch.float64)
            expected[0, 0], expected[1, 1] = label, metric
            torch.testing.assert_close(towers.pairs[i, j], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_cache_without_a_batch_dimension_gives_one_without():
    model = demo.load()
    prompts = from_demo(model, demo.in_context(2, 4))[:1]
    tokens = batch_of(model, prompts).tokens
    _, cache = model.run_with_cache(tokens, names_filter=needed_by_towers)
    batched = two_towers(cache, prompts, layer=2, head=1, heads=True)
    _, single = model.run_with_cache(tokens, remove_batch_dim=True)
    alone = two_towers(single, prompts[0], layer=2, head=1, heads=True)
    for name in ("query", "key", "score", "attention", "pairs", "position"):
        torch.testing.assert_close(getattr(alone, name), getattr(batched, name)[0])
    torch.testing.assert_close(label_scores(single, prompts[0]), label_scores(cache, prompts)[0])


@torch.no_grad()
def test_frame_and_table_say_what_the_tensors_hold():
    model = demo.load()
    prompts = from_demo(model, demo.in_context(2, 4, order=(0, 1, 1, 0)))
    _, _, cache = cached(model, prompts)
    towers = two_towers(cache, prompts, layer=1, head=2)
    frame = towers.to_frame()
    assert len(frame) == 2 * 4 * 4 * 4
    row = frame[
        (frame["prompt"] == 1) & (frame["label"] == 2) & (frame["query"] == "L0 mlp") & (frame["key"] == "bias")
    ]
    assert float(row["score"].iloc[0]) == pytest.approx(float(towers.pairs[1, 2, 2, 3]))
    assert (row["text"].iloc[0], row["word"].iloc[0]) == (prompts[1].demonstrations[2][0], prompts[1].labels[1])
    assert "the towers of L1H2, the first of 2 prompts" in str(towers)
    strongest = int(towers.by_key[0, 3].abs().argmax())
    assert towers.table().rows[3][-1].startswith(towers.components[strongest])


@torch.no_grad()
@pytest.mark.parametrize("name", HIDDEN)
def test_architectures_that_hide_their_scores_are_refused(name):
    model = architectures.build(name, dtype=torch.float32)
    prompts = tiny_prompts(model)
    _, _, cache = cached(model, prompts)
    for call in (lambda: two_towers(cache, prompts, layer=1, head=0), lambda: label_scores(cache, prompts)):
        with pytest.raises(ValueError, match=f"this architecture hides its scores: {HIDDEN[name]} leaves attention"):
            call()


def booted(model, config):
    model.config.architectures = [type(model).__name__]
    return architectures.TransformerBridge.boot_transformers(
        type(config).__name__, hf_model=model.eval(), tokenizer=architectures.tokenizer(), device="cpu"
    )


@torch.no_grad()
def test_labels_outside_the_window_are_refused():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 80}
    config = hf.MistralConfig(**sizes, vocab_size=97, num_key_value_heads=2, sliding_window=6)
    model = booted(hf.MistralForCausalLM(config), config)
    prompts = tiny_prompts(model)[:1]
    _, _, cache = cached(model, prompts)
    with pytest.raises(ValueError, match="label 0 of prompt 0 is outside the attention window of layer 1"):
        two_towers(cache, prompts, layer=1, head=0)
    assert float(label_scores(cache, prompts)[0, 1, 0, 0]) == torch.finfo(torch.float32).min


@torch.no_grad()
def test_a_gpt2_that_divides_its_scores_by_the_layer_is_read_right():
    torch.manual_seed(0)
    config = hf.GPT2Config(n_layer=3, n_head=4, n_embd=32, vocab_size=97, scale_attn_by_inverse_layer_idx=True)
    model = booted(hf.GPT2LMHeadModel(config), config)
    prompts = tiny_prompts(model)[:1]
    _, _, cache = cached(model, prompts)
    towers = two_towers(cache, prompts, layer=2, head=1)
    torch.testing.assert_close(towers.pairs.sum((-1, -2)), towers.score, atol=1e-6, rtol=1e-4)
    product = (towers.key @ towers.query[:, :, None])[..., 0]
    torch.testing.assert_close(product / 8**0.5 / 3, towers.score, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_what_will_not_do_is_refused():
    model = demo.load()
    prompts = from_demo(model, demo.in_context(2, 4))
    tokens, _, cache = cached(model, prompts)
    layers = model.cfg.n_layers
    with pytest.raises(IndexError, match=f"layer must lie between 0 and {layers - 1}, got {layers}"):
        two_towers(cache, prompts, layer=layers, head=0)
    with pytest.raises(IndexError, match="head must lie between 0 and 7, got 8"):
        two_towers(cache, prompts, layer=1, head=8)
    with pytest.raises(ValueError, match=r"cache is of another prompt than prompts\[0\]"):
        two_towers(cache, reversed_labels(model, prompts), layer=1, head=0)
    _, bare = model.run_with_cache(tokens, names_filter=lambda n: not n.endswith(("attn.hook_q", "attn.hook_k")))
    with pytest.raises(ValueError, match=r"cache lacks blocks\.1\.attn\.hook_q, blocks\.1\.attn\.hook_k; run_with"):
        two_towers(bare, prompts, layer=1, head=0)
    model.add_hook("blocks.1.attn.hook_attn_scores", lambda s, hook: 2 * s)
    try:
        _, edited = model.run_with_cache(tokens)
    finally:
        model.reset_hooks()
    with pytest.raises(ValueError, match="makes its attention scores in another way: the towers' product is off by"):
        two_towers(edited, prompts, layer=1, head=0)
