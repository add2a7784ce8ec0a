"""The logit flow against layer scores at each position, and against the stream itself."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr import demo
from tl_neuron_attr.knowledge import attribution as module
from tl_neuron_attr.numerics.increase import target_log_probs

NAMES = ["llama", "gpt2", "gemma3", "gemma2", "neox_parallel", "olmo2", "opt"]


@pytest.mark.parametrize("name", NAMES)
def test_every_position_is_what_layer_scores_are_there(name):
    _, cache = architectures.run(name)
    flow = tna.logit_flow(cache, 5)
    assert flow.attn.shape == flow.mlp.shape and flow.attn.dtype == torch.float64
    for pos in range(flow.attn.shape[-1]):
        there = tna.attribute_layers(cache, 5, pos=pos)
        assert torch.allclose(flow.attn[..., pos], there.attn, atol=1e-9)
        assert torch.allclose(flow.mlp[..., pos], there.mlp, atol=1e-9)


@pytest.mark.parametrize("name", ["llama", "gemma2", "neox_parallel"])
def test_logits_that_are_not_kept_change_nothing(name, monkeypatch):
    """A parallel block's sublayers do not follow each other: there, and only there, logits are kept all the same."""
    _, cache = architectures.run(name)
    kept, passes = tna.logit_flow(cache, 5), []
    monkeypatch.setattr(module, "target_log_probs", lambda streams: passes.append(0) or target_log_probs(streams))
    flow = tna.logit_flow(cache, 5, max_bytes=1)
    assert torch.allclose(flow.attn, kept.attn, atol=1e-9) and torch.allclose(flow.mlp, kept.mlp, atol=1e-9)
    assert bool(passes) == (name != "neox_parallel")


def test_sublayers_of_a_position_sum_to_what_the_stream_gained_there():
    """In a sequential block each sublayer starts where the one before ended."""
    _, cache = architectures.run("llama", batch=1)
    flow = tna.logit_flow(cache, 5)
    total = (flow.attn + flow.mlp).sum(-2)[0]
    model, last = cache.model, architectures.LAYERS - 1
    for pos, gained in enumerate(total):
        scale = cache["ln_final.hook_scale"][0, pos]
        ends = [cache[f"blocks.{name}"][0, pos] for name in ("0.hook_resid_pre", f"{last}.hook_resid_post")]
        first, final = ((x / scale * model.ln_final.w @ model.W_U).log_softmax(-1)[5] for x in ends)
        assert float(gained) == pytest.approx(float(final - first), abs=1e-9)


def test_contrast_chunks_and_a_scored_cache_change_nothing_else():
    _, cache = architectures.run("gpt2")
    whole = tna.logit_flow(cache, 5, contrast=9)
    assert torch.allclose(tna.logit_flow(cache, 5, contrast=9, max_bytes=1).mlp, whole.mlp, atol=1e-9)
    assert torch.equal(tna.logit_flow(tna.scored(cache, 5, contrast=9)).attn, whole.attn)
    shorter = tna.logit_flow(cache, 5, contrast=9, pos=3)
    assert torch.allclose(shorter.attn, whole.attn[..., :4], atol=1e-9)


def test_without_a_batch_dimension_there_is_none():
    model = architectures.build("gpt2")
    _, cache = model.run_with_cache(architectures.prompts(1), remove_batch_dim=True)
    flow = tna.logit_flow(cache, 5)
    assert flow.attn.ndim == 2 and len(flow.tokens) == 1


def test_it_prints_its_strongest_entries():
    _, cache = demo.load().run_with_cache("Tim Duncan plays the sport of")
    flow = tna.logit_flow(cache, " basketball")
    rows, frame = flow.table().rows, flow.to_frame()
    assert len(rows) == 12 and len(frame) == 2 * flow.attn.numel()
    assert abs(rows[0][-1]) == pytest.approx(float(torch.stack([flow.attn, flow.mlp]).abs().max()))
    both = tna.logit_flow(architectures.run("gpt2")[1], 5)
    assert both.table().headings[0] == "prompt"


def test_what_is_not_one_token_at_one_position_is_refused():
    model = demo.load()
    _, cache = model.run_with_cache(["3 + 5 =", "2 + 4 ="])
    with pytest.raises(ValueError, match="pos differs between prompts"):
        tna.logit_flow(cache, "8", pos=torch.tensor([-1, -2]))
    either = tna.answer(model, "Tim Duncan plays the sport of", tna.any_of(" basketball .", " tennis"))
    with pytest.raises(ValueError, match="per_token is of one answer per prompt"):
        tna.logit_flow(either)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_the_flow_of_an_answer_is_that_of_its_tokens_added_up(name):
    model, answers = architectures.build(name), [torch.tensor([5, 17]), torch.tensor([11, 3])]
    q = tna.answer(model, list(architectures.prompts()), answers)
    whole, cache, tokens = tna.logit_flow(q), q.stream.cache, torch.stack(answers)
    first, second = (tna.logit_flow(cache, tokens[:, i], pos=6 + i) for i in (0, 1))
    for site in ("attn", "mlp"):
        expected = getattr(second, site).clone()
        expected[..., :-1] += getattr(first, site)
        torch.testing.assert_close(getattr(whole, site), expected, atol=1e-9, rtol=0)
    assert len(whole.tokens[0]) == 8
