"""Many heads in one run against one head a run, zeroed in the weights."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures

TOKENS = architectures.prompts()


@torch.no_grad()
def one_at_a_time(model, target, pos=(6, 6)):
    """``[batch, layer, head]``: log p(target) with a head's rows of W_O set to zero, one whole run each."""
    rows = torch.arange(len(TOKENS))
    found = []
    for block in model.blocks:
        of_layer = []
        for W_O in block.attn.W_O:
            before = W_O.clone()
            W_O.zero_()
            of_layer.append(model(TOKENS)[rows, list(pos)].log_softmax(-1)[rows, target])
            W_O.copy_(before)
        found.append(torch.stack(of_layer, dim=1))
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("name", architectures.BUILDERS)
def test_they_equal_one_whole_run_a_head(name, compat):
    double = name != "mixtral"  # its experts know no float64
    model = architectures.build(name, compat=compat, dtype=torch.float64 if double else torch.float32)
    found = tna.head_effects(model, TOKENS, 5, progress=False)
    tight = {"atol": 1e-9, "rtol": 0} if double and not compat else {"atol": 2e-5, "rtol": 0}
    torch.testing.assert_close(found.log_prob, one_at_a_time(model, [5, 5]), **tight)
    torch.testing.assert_close(found.prob, found.log_prob.exp())
    with torch.no_grad():
        base = model(TOKENS)[:, -1].log_softmax(-1)[:, 5]
    torch.testing.assert_close(found.base_log_prob, base, **tight)
    torch.testing.assert_close(found.base_prob, base.exp(), **tight)
    assert float(found.drop.abs().min()) > 0


def test_a_position_and_a_target_each():
    model = architectures.build("llama")
    found = tna.head_effects(model, TOKENS, [3, 9], pos=torch.tensor([4, -1]), progress=False)
    torch.testing.assert_close(found.log_prob, one_at_a_time(model, [3, 9], (4, 6)), atol=1e-12, rtol=0)


def test_batches_and_memory_change_nothing():
    model = architectures.build("gpt2", dtype=torch.float32)
    expected = tna.head_effects(model, TOKENS, 5, progress=False)
    for options in ({"batch_size": 1}, {"batch_size": 3}, {"max_bytes": 1}):
        found = tna.head_effects(model, TOKENS, 5, progress=False, **options)
        torch.testing.assert_close(found.log_prob, expected.log_prob, atol=1e-6, rtol=0)


def test_only_the_heads_asked_for():
    model = architectures.build("gpt2")
    everything = tna.head_effects(model, TOKENS, 5, progress=False)
    found = tna.head_effects(model, TOKENS, 5, heads=[(2, 1), (0, 3)], progress=False)
    asked = torch.zeros(3, 4, dtype=torch.bool)
    asked[2, 1] = asked[0, 3] = True
    torch.testing.assert_close(found.log_prob[:, asked], everything.log_prob[:, asked])
    assert bool(found.log_prob[:, ~asked].isnan().all())
    assert sorted(found.ranked()) == [(0, 3), (2, 1)] and len(found.to_frame()) == 4
    assert str(found).count("L") == 2


def test_a_prompt_alone_has_no_batch_dimension():
    model = architectures.build("gpt2")
    batch = tna.head_effects(model, TOKENS[:1], "w5", progress=False)
    alone = tna.head_effects(model, TOKENS[0], "w5", progress=False)
    assert alone.prob.shape == (3, 4) and alone.base_prob.shape == () and batch.prob.shape == (1, 3, 4)
    torch.testing.assert_close(alone.prob, batch.prob[0])
    text = " ".join(f"w{i}" for i in TOKENS[0].tolist())
    spoken = tna.head_effects(model, text, "w5", progress=False)
    with_bos = tna.head_effects(model, model.to_tokens(text)[0], "w5", progress=False)
    torch.testing.assert_close(spoken.prob, with_bos.prob)


def test_ranks_table_and_frame_agree():
    model = architectures.build("gpt2")
    found = tna.head_effects(model, TOKENS, 5, progress=False)
    ranked = found.ranked()
    drops = [float(found.drop[:, layer, head].mean()) for layer, head in ranked]
    assert drops == sorted(drops, reverse=True) and len(ranked) == 12
    frame = found.to_frame()
    means = frame.groupby(["layer", "head"])["drop"].mean()
    assert means.idxmax() == ranked[0] and means.max() == pytest.approx(drops[0])
    layer, head = ranked[0]
    assert f"1  L{layer}H{head} " in str(found) and "mean of 2 prompts" in str(found)
    assert "<table>" in found._repr_html_()


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"heads": [(3, 0)]}, IndexError, r"layer of \(3, 0\) must lie between 0 and 2"),
        ({"heads": [(0, 4)]}, IndexError, r"head of \(0, 4\) must lie between 0 and 3"),
        ({"heads": [(0, 1), (0, 1)]}, IndexError, "named twice"),
        ({"heads": []}, ValueError, "heads is empty"),
        ({"pos": 7}, IndexError, "pos must lie between -7 and 6"),
        ({"target": 97}, IndexError, "target must be a token id between 0 and 96"),
        ({"target": "w1 w2"}, ValueError, "must be one token, it is 2"),
        ({"tokens": ""}, ValueError, "prompt is empty"),
        ({"tokens": torch.zeros(0, 3, dtype=torch.long)}, ValueError, r"tokens is empty, of shape \(0, 3\)"),
    ],
)
def test_bad_input_is_named(change, error, message):
    arguments = {"tokens": TOKENS, "target": 5, "progress": False} | change
    with pytest.raises(error, match=message):
        tna.head_effects(architectures.build("gpt2"), **arguments)


def test_padding_is_refused_where_it_would_be_read():
    model = architectures.build("gpt2")
    pad = model.tokenizer.pad_token_id
    left, right = (torch.cat(two, 1) for two in ((torch.full((2, 1), pad), TOKENS), (TOKENS, torch.full((2, 1), pad))))
    for padded in (left, right):
        with pytest.raises(ValueError, match=r"prompts \[0, 1\] hold padding before the position scored"):
            tna.head_effects(model, padded, 5, progress=False)
    found = tna.head_effects(model, right, 5, pos=6, progress=False)
    torch.testing.assert_close(found.log_prob, tna.head_effects(model, TOKENS, 5, progress=False).log_prob)


def test_a_crash_leaves_the_model_as_it_was():
    model = architectures.build("gpt2")
    before = model(TOKENS)
    handle = model.blocks[2].mlp.register_forward_pre_hook(lambda *_: 1 / 0 if len(_[1][0]) > 2 else None)
    with pytest.raises(ZeroDivisionError):
        tna.head_effects(model, TOKENS, 5, progress=False)
    handle.remove()
    assert torch.equal(model(TOKENS), before)
    assert not any(hook.fwd_hooks for hook in model.hook_dict.values())
