"""What neurons did to the distribution: two whole softmaxes per neuron, in float64."""

from dataclasses import replace

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures, oracle
from tl_neuron_attr.model.readable_tokens import ReadableTokens
from tl_neuron_attr.numerics.sublayer import SITES

POSITIONS, TARGETS = (4, 6), (5, 7)


def moved_by(cache, neurons, i, row, pos):
    """How much probability each token gained by neuron ``i``, by the slow oracle."""
    site, layer = SITES[int(neurons.site[i])], int(neurons.layer[i])
    head, source, index = (int(getattr(neurons, name)[i]) for name in ("head", "source", "index"))
    write = oracle.writes(cache, layer, site, row, pos)[(head, source, index) if site == "attn" else index]
    base = oracle.base(cache, layer, site, row, pos)
    return oracle.log_probs(cache, row, pos, base + write).exp() - oracle.log_probs(cache, row, pos, base).exp()


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "neox_parallel", "cohere"])
@pytest.mark.filterwarnings("ignore:the model caps its logits")
def test_probabilities_move_as_two_softmaxes_say(name):
    model = architectures.build(name)
    _, cache = model.run_with_cache(architectures.prompts())
    scored = tna.scored(cache, torch.tensor(TARGETS), pos=torch.tensor(POSITIONS))
    neurons = tna.value_neurons(scored, k=6)
    size = model.W_U.shape[1]
    found = tna.moved_tokens(scored, neurons, k=size, max_bytes=1)  # one neuron read out at a time
    for at, (row, i) in enumerate((row, i) for row in range(2) for i in range(6)):
        moved = moved_by(cache, neurons[row], i, row, POSITIONS[row])
        torch.testing.assert_close(found.target_moved[at], moved[TARGETS[row]], atol=1e-12, rtol=1e-7)
        for listed, sign in ((found.raised[at], 1), (found.lowered[at], -1)):
            expected = (sign * moved).sort(descending=True)
            kept = expected.values > 0
            torch.testing.assert_close(
                sign * torch.tensor([change for _, change in listed]).double(), expected.values[kept], atol=1e-8, rtol=0
            )
            assert [text for text, _ in listed] == [model.to_string(t) for t in expected.indices[kept].tolist()]
        assert len(found.raised[at]) + len(found.lowered[at]) == size  # and none twice


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_logit_and_rank_of_the_target_are_those_of_the_raw_projection(name):
    model = architectures.build(name)
    _, cache = model.run_with_cache(architectures.prompts(1))
    neurons = tna.value_neurons(cache, 5, 8)
    found, size = tna.moved_tokens(cache, neurons, 5), model.W_U.shape[1]
    raw = tna.top_tokens(cache, neurons, k=size)
    for i in range(8):
        assert raw.promoted[i].index("w5") + 1 == int(found.target_rank[i])
        assert found.promoted[i] == raw.promoted[i][:10] and found.suppressed[i] == raw.suppressed[i][:10]
    mlp = int((neurons.site == 1).nonzero()[0][1])
    norm, scale = model.ln_final, cache["ln_final.hook_scale"][0, -1]
    block = model.blocks[int(neurons.layer[0, mlp])]
    write = neurons.coefficient[0, mlp] * block.mlp.W_out[int(neurons.index[0, mlp])]
    centred = write if norm.uses_rms_norm else write - write.mean()
    logit = (centred / scale * norm.w) @ model.W_U[:, 5]
    torch.testing.assert_close(found.target_logit[mlp], logit[0] if logit.ndim else logit)


def test_only_words_are_listed_and_the_rest_is_counted():
    model = tna.demo.load()
    _, cache = model.run_with_cache("Tim Duncan plays the sport of")
    scored = tna.scored(cache, " basketball")
    neurons = tna.value_neurons(scored, k=4)
    every = tna.moved_tokens(scored, neurons, k=model.W_U.shape[1])
    found = tna.moved_tokens(scored, neurons, k=3, readable=True)
    readable = ReadableTokens(model)
    words = {model.to_string(token) for token in range(model.W_U.shape[1]) if readable(token)}
    left_out = 0
    for i in range(4):
        for name in ("raised", "lowered", "promoted", "suppressed"):
            texts = [each if isinstance(each, str) else each[0] for each in getattr(every, name)[i]]
            mine = [each if isinstance(each, str) else each[0] for each in getattr(found, name)[i]]
            assert mine == [text for text in texts if text in words][:3]
            left_out += texts.index(mine[-1]) + 1 - 3
    assert found.left_out == left_out and every.left_out is None
    tokens = "token" if left_out == 1 else "tokens"
    assert f"{left_out} other {tokens} left out" in str(found) and "left out" not in str(every)


def test_it_prints_and_frames():
    _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
    found = tna.moved_tokens(cache, tna.value_neurons(cache, " basketball", k=3), " basketball", k=2)
    frame = found.to_frame()
    assert list(frame["neuron"]) == list(found.labels) and list(frame["target_rank"]) == found.target_rank.tolist()
    assert frame["raised"][0] == list(found.raised[0]) and len(found.raised[0]) == 2
    assert f"basketball {found.raised[0][0][1]:+.2g}" in str(found)


def test_neurons_of_another_run_and_what_the_model_lacks_are_refused():
    model = architectures.build("gpt2")
    _, cache = model.run_with_cache(architectures.prompts())
    neurons = tna.value_neurons(cache, 5, 3)
    with pytest.raises(ValueError, match="neurons is of another cache or position: L"):
        tna.moved_tokens(cache, neurons, 5, pos=2)
    whole = tna.answer(cache.model, architectures.prompts(1)[0], torch.tensor([5, 17]))
    with pytest.raises(ValueError, match=r"moved_tokens is of one token .* answer.per_token\[i\], with its own"):
        tna.moved_tokens(whole, tna.value_neurons(whole, k=3))
    one = whole.per_token[1]
    assert tna.moved_tokens(one, tna.value_neurons(one, k=3)).target == ("w17",) * 3
    with pytest.raises(ValueError, match="neurons is of 1 prompt and cache of 2"):
        tna.moved_tokens(cache, neurons[0], 5)
    with pytest.raises(ValueError, match="k must be between 1 and the vocabulary's 97 tokens, got 0"):
        tna.moved_tokens(cache, neurons, 5, k=0)
    with pytest.raises(IndexError, match=r"layer of .* must lie between 0 and 2, got 99"):
        tna.moved_tokens(cache, replace(neurons, layer=torch.full_like(neurons.layer, 99)), 5)
    attn = tna.value_neurons(cache, 5, 3, sites="attn")
    with pytest.raises(IndexError, match=r"source of .* must lie between 0 and 6, got 7"):
        tna.moved_tokens(cache, replace(attn, source=torch.full_like(attn.source, 7)), 5)


def test_without_a_target_the_models_own_prediction_is_followed():
    model = architectures.build("gpt2")
    logits, cache = model.run_with_cache(architectures.prompts())
    neurons = tna.value_neurons(cache, 5, 3)
    own = tna.moved_tokens(cache, neurons, logits[:, -1].argmax(-1))
    assert str(tna.moved_tokens(cache, neurons)) == str(own)
