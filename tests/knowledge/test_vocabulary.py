import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.model.neuron_directions import through_head
from tl_neuron_attr.results.token_text import printable, visible


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "bloom", "cohere"])
def test_promoted_tokens_are_those_whose_logit_the_neuron_raises(name):
    """Checked by reading out the model's own final norm and unembedding around the real stream."""
    model = architectures.build(name)
    _, cache = model.run_with_cache(architectures.prompts(1))
    sites = ("mlp",)
    value = tna.value_neurons(cache, 5, 6, sites=sites)[0] if name != "gemma2" else _capped(cache, sites)
    shown = tna.top_tokens(cache, value, k=3)
    for i in range(6):
        layer, index = int(value.layer[i]), int(value.index[i])
        write = value.coefficient[i] * model.blocks[layer].mlp.W_out[index]
        if name == "gemma2":
            write = write * (1 + model.blocks[layer].ln2_post.w)
        norm = model.ln_final
        centred = write if norm.uses_rms_norm else write - write.mean()
        logits = centred * (norm.w + (1 if norm.uses_weight_offset else 0)) @ model.W_U
        best = [f"w{t}" if t < 93 else model.to_string(t) for t in logits.topk(3).indices.tolist()]
        worst = [f"w{t}" if t < 93 else model.to_string(t) for t in (-logits).topk(3).indices.tolist()]
        assert shown.promoted[i] == tuple(best) and shown.suppressed[i] == tuple(worst)


def _capped(cache, sites):
    with pytest.warns(UserWarning, match="caps its logits"):
        return tna.value_neurons(cache, 5, 6, sites=sites)[0]


def test_a_negative_coefficient_swaps_promoted_and_suppressed():
    from dataclasses import replace

    model = architectures.build("llama")
    _, cache = model.run_with_cache(architectures.prompts(1))
    value = tna.value_neurons(cache, 5, 8)
    plain, turned = (tna.top_tokens(model, v, k=4) for v in (value, replace(value, coefficient=-value.coefficient)))
    assert plain.promoted == turned.suppressed and plain.suppressed == turned.promoted


def test_neurons_of_another_model_are_refused():
    model = architectures.build("gpt2", dtype=torch.float32)
    _, cache = model.run_with_cache(architectures.prompts(1))
    from dataclasses import replace

    value = tna.value_neurons(cache, 5, 3, sites=("mlp",))
    for field, message in (("layer", "layer must lie between 0 and 2, got 99"), ("index", "index in layer")):
        with pytest.raises(IndexError, match=message):
            tna.top_tokens(model, replace(value, **{field: torch.full_like(value.layer, 99)}))
    for k in (0, 98):
        with pytest.raises(ValueError, match="k must be between 1 and the vocabulary's 97"):
            tna.top_tokens(model, value, k=k)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "olmo2", "neox_parallel"])
def test_transformed_tokens_are_what_the_head_itself_writes(name):
    """Fed to the model in place of the stream, the neuron's direction leaves the head as it is read out here.

    The norm in front of the head is the model's own module, its bias taken away; the head writes through its post-norm.
    """
    model = architectures.build(name)
    index, layer, head = 7, 1, 2
    value = tna.Neurons(*(torch.tensor([x]) for x in (1, 0, -1, -1, index)), torch.ones(1), torch.ones(1))
    block, write = model.blocks[layer], model.blocks[0].mlp.W_out[index]
    if name in ("gemma2", "olmo2"):
        norm = model.blocks[0].ln2_post
        write = write * (norm.w + (1 if norm.uses_weight_offset else 0))
    if name != "olmo2":
        write = block.ln1(write[None, None])[0, 0] - (getattr(block.ln1, "b", None) if hasattr(block.ln1, "b") else 0)
    kv = head // (len(block.attn.W_O) // len(block.attn.W_V))
    moved = write @ block.attn.W_V[kv] @ block.attn.W_O[head]
    if name in ("gemma2", "olmo2"):
        norm = block.ln1_post
        moved = moved * (norm.w + (1 if norm.uses_weight_offset else 0))
    final = model.ln_final
    centred = moved if final.uses_rms_norm else moved - moved.mean()
    logits = centred * (final.w + (1 if final.uses_weight_offset else 0)) @ model.W_U
    shown = tna.transformed_tokens(model, value, layer, head, k=4)
    assert shown.promoted[0] == tuple(model.to_string(t) for t in logits.topk(4).indices.tolist())
    assert shown.labels == ("L0N7 through L1H2",)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "falcon"])
def test_all_heads_of_a_layer_move_a_neuron_by_the_sum_of_what_each_does(name):
    model = architectures.build(name)
    vectors = torch.randn(3, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    each = sum(through_head(model, vectors, 1, head) for head in range(4))
    torch.testing.assert_close(through_head(model, vectors, 1, None), each)
    value = tna.Neurons(*(torch.tensor([x]) for x in (1, 0, -1, -1, 7)), torch.ones(1), torch.ones(1))
    assert tna.transformed_tokens(model, value, 1, None, k=4).labels == ("L0N7 through L1",)


@torch.no_grad()
def test_position_tokens_read_the_parts_of_the_stream():
    model = architectures.build("gpt2")
    _, cache = model.run_with_cache(architectures.prompts())
    embed = cache["blocks.0.hook_resid_pre"][1]
    attn = sum(cache[f"blocks.{i}.hook_attn_out"][1] for i in range(2))
    mlp = sum(cache[f"blocks.{i}.hook_mlp_out"][1] for i in range(2))
    for view, part in (("stream", embed + attn + mlp), ("key", attn), ("value", mlp)):
        logits = (part - part.mean(-1, keepdim=True)) * model.ln_final.w @ model.W_U
        shown = tna.position_tokens(cache, 2, view=view, prompt=1, k=3)
        expected = [tuple(model.to_string(t) for t in row) for row in logits.topk(3).indices.tolist()]
        assert list(shown.promoted) == expected
        assert shown.labels[4] == f"@4 w{int(architectures.prompts()[1, 4])}"
    with pytest.raises(IndexError, match="layer must lie between 0 and 2, got 3"):
        tna.position_tokens(cache, 3)
    with pytest.raises(IndexError, match="prompt must lie between 0 and 1, got 2"):
        tna.position_tokens(cache, 1, prompt=2)
    with pytest.raises(IndexError, match="head must lie between 0 and 3, got 9"):
        tna.transformed_tokens(cache, tna.value_neurons(cache, 5, 2), 1, 9)


@pytest.mark.parametrize(
    "text, shown", [(" cat", "␣cat"), ("cat ", "cat␣"), ("  ", "␣␣"), ("", ""), ("a\nb", "a\\nb"), ("\t", "\\t")]
)
def test_spaces_and_control_characters_are_made_visible(text, shown):
    assert visible(text) == shown


def test_printable_keeps_what_can_be_printed():
    assert printable("ü漢 x") == "ü漢 x"
    assert printable("\x1b[31m") == "\\x1b[31m"


def test_readable_tokens_are_the_best_words_and_the_rest_is_counted():
    model = tna.demo.load()
    _, cache = model.run_with_cache("Tim Duncan plays the sport of")
    value = tna.value_neurons(cache, " basketball", k=6)
    size = model.W_U.shape[1]
    every = tna.top_tokens(cache, value, k=size)
    lists = tna.top_tokens(cache, value, k=5, readable=True)
    left_out = 0
    for side in ("promoted", "suppressed"):
        for ranked, words in zip(getattr(every, side), getattr(lists, side), strict=True):
            expected = [token for token in ranked if token.isalnum()][:5]
            assert list(words) == expected
            left_out += ranked.index(expected[-1]) + 1 - 5
    assert lists.left_out == left_out > 0 and f"{left_out} other tokens left out" in repr(lists)
    assert every.left_out is None


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("largest", [True, False])
def test_the_promoted_tokens_a_search_notes_are_those_of_each_neurons_direction(name, largest):
    model = architectures.build(name)
    _, cache = model.run_with_cache(architectures.prompts())
    value = tna.value_neurons(cache, 5, k=20, largest=largest)
    expected = tna.top_tokens(model, value, k=6).promoted
    assert [value.text.of(key) for key in value.keys] == list(expected)


def test_ten_tokens_are_listed_unless_told_otherwise():
    _, cache = architectures.run("llama")
    lists = tna.top_tokens(cache, tna.value_neurons(cache, 5, k=2)[0])
    assert [len(words) for words in (*lists.promoted, *lists.suppressed)] == [10] * 4
