"""Many heads in one run against one head a run, zeroed in the weights."""

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr import demo
from tl_neuron_attr.results import storage

GRIDS = ("prob", "log_prob", "base_prob", "base_log_prob")

TOKENS = architectures.prompts()


@torch.no_grad()
def one_at_a_time(model, target, pos=(6, 6)):
    """``[batch, layer, head]``: log p(target) with a head's rows of W_O set to zero, one whole run each."""
    rows = torch.arange(len(TOKENS))
    found = []
    for block in model.blocks:
        of_layer = []
        if not hasattr(block, "attn"):  # a mixer of a hybrid, which has no heads
            found.append(torch.full((len(TOKENS), architectures.HEADS), torch.nan).double())
            continue
        for W_O in block.attn.W_O:
            before = W_O.clone()
            W_O.zero_()
            of_layer.append(model(TOKENS)[rows, list(pos)].log_softmax(-1)[rows, target])
            W_O.copy_(before)
        found.append(torch.stack(of_layer, dim=1))
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("name", architectures.BUILDERS | architectures.HYBRIDS)
def test_they_equal_one_whole_run_a_head(name, compat):
    model = architectures.build(name, compat=compat)
    found = tna.head_effects(model, TOKENS, 5, progress=False)
    tight = {"atol": 1e-9, "rtol": 0} if not compat else {"atol": 2e-5, "rtol": 0}
    torch.testing.assert_close(found.log_prob, one_at_a_time(model, [5, 5]), **tight, equal_nan=True)
    torch.testing.assert_close(found.prob, found.log_prob.exp(), equal_nan=True)
    with torch.no_grad():
        base = model(TOKENS)[:, -1].log_softmax(-1)[:, 5]
    torch.testing.assert_close(found.base_log_prob, base, **tight)
    torch.testing.assert_close(found.base_prob, base.exp(), **tight)
    assert float(found.drop[~found.drop.isnan()].abs().min()) > 0


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


def padded(side, token, counts=(0, 2)):
    """The prompts with ``counts`` tokens of padding, and the mask; each prompt is cut to keep the batch rectangular."""
    rows, mask = [], []
    for prompt, count in zip(TOKENS, counts, strict=True):
        real, padding = prompt[: len(prompt) - count], torch.full((count,), token)
        ones, zeros = torch.ones_like(real), torch.zeros_like(padding)
        both = ((padding, real), (zeros, ones)) if side == "left" else ((real, padding), (ones, zeros))
        rows.append(torch.cat(both[0]))
        mask.append(torch.cat(both[1]))
    return torch.stack(rows), torch.stack(mask)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "gemma2", "opt"])
def test_with_a_mask_each_prompt_has_the_numbers_it_has_alone(name, side):
    model = architectures.build(name)
    tokens, mask = padded(side, 96)
    pos = -1 if side == "left" else torch.tensor([6, 4])
    found = tna.head_effects(model, tokens, [5, 9], pos=pos, attention_mask=mask, progress=False)
    for i, (prompt, target) in enumerate(zip((TOKENS[0], TOKENS[1, :5]), (5, 9), strict=True)):
        alone = tna.head_effects(model, prompt, target, progress=False)
        torch.testing.assert_close(found.log_prob[i], alone.log_prob, atol=1e-9, rtol=0)
        torch.testing.assert_close(found.base_log_prob[i], alone.base_log_prob, atol=1e-9, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["its own", "the end token", "the begin and end token", "none"])
def test_padding_without_a_mask_is_refused(kind, side):
    model = architectures.build("gpt2")
    special = {
        "its own": ("w90", "w91", "w92"),
        "the end token": ("w90", "w91", "w90"),
        "the begin and end token": ("w90", "w90", "w90"),
        "none": (None, None, None),
    }[kind]
    model.tokenizer = copy.deepcopy(model.tokenizer)
    model.tokenizer.pad_token, model.tokenizer.bos_token, model.tokenizer.eos_token = special
    for counts in ((0, 2), (2, 2), *(() if kind == "none" else ((0, 1),))):  # nothing shows one token of no kind
        tokens, _ = padded(side, 90, counts)
        for pos in (-1, 6):
            with pytest.raises(ValueError, match="pass attention_mask="):
                tna.head_effects(model, tokens, 5, pos=pos, progress=False)
    assert tna.head_effects(model, TOKENS, 5, progress=False).prob.shape == (2, 3, 4)


def test_padding_behind_the_position_scored_is_never_read():
    model = architectures.build("gpt2")
    right = torch.cat((TOKENS, torch.full((2, 1), model.tokenizer.pad_token_id)), 1)
    found = tna.head_effects(model, right, 5, pos=6, progress=False)
    torch.testing.assert_close(found.log_prob, tna.head_effects(model, TOKENS, 5, progress=False).log_prob)


def test_logits_that_are_not_finite_are_refused_by_name():
    model = architectures.build("gpt2", dtype=torch.float32)
    with torch.no_grad():
        model.W_U[3, 7] = torch.nan
    with pytest.raises(ValueError, match=r"weight transformer\.wte\.weight holds NaN or Inf"):
        tna.head_effects(model, TOKENS, 5, progress=False)
    model = architectures.build("gpt2", dtype=torch.float32)
    hook = ("blocks.1.hook_resid_pre", lambda resid, hook: resid * torch.inf)
    with (
        model.hooks(fwd_hooks=[hook]),
        pytest.raises(ValueError, match=r"no weight does: torch\.float32 overflowed, a hook broke the run"),
    ):
        tna.head_effects(model, TOKENS, 5, progress=False)


def test_an_overflow_in_float16_is_refused():
    model = architectures.build("gpt2", dtype=torch.float32)
    with torch.no_grad():
        model.blocks[2].mlp.W_in.mul_(1e3)
        model.blocks[2].mlp.W_out.mul_(1e4)
    model.original_model.half()
    with torch.no_grad():
        assert not bool(model(TOKENS).isfinite().all()), "the input must be a broken run"
    with pytest.raises(ValueError, match=r"no weight does: torch\.float16 overflowed"):
        tna.head_effects(model, TOKENS, 5, progress=False)


def test_threads_that_share_a_model_get_what_each_gets_alone():
    model = architectures.build("llama")
    targets = list(range(8)) * 3
    alone = [tna.head_effects(model, TOKENS, target, progress=False).log_prob for target in targets[:8]]
    before = model(TOKENS)

    def found(target):
        pos = torch.tensor([6, 6 - target % 2])
        return tna.head_effects(model, TOKENS, target, pos=pos, batch_size=5, progress=False).log_prob

    with ThreadPoolExecutor(8) as pool:
        for target, log_prob in zip(targets, pool.map(found, targets), strict=True):
            torch.testing.assert_close(log_prob[0], alone[target][0], atol=1e-12, rtol=0)
    assert torch.equal(model(TOKENS), before)


def test_a_crash_leaves_the_model_as_it_was():
    model = architectures.build("gpt2")
    before = model(TOKENS)
    handle = model.blocks[2].mlp.register_forward_pre_hook(lambda *_: 1 / 0 if len(_[1][0]) > 2 else None)
    with pytest.raises(ZeroDivisionError):
        tna.head_effects(model, TOKENS, 5, progress=False)
    handle.remove()
    assert torch.equal(model(TOKENS), before)
    assert not any(hook.fwd_hooks for hook in model.hook_dict.values())


@torch.no_grad()
def test_an_answer_loses_what_its_tokens_lose():
    model = architectures.build("llama")
    prompt, answer = architectures.prompts(1, 4)[0], (5, 17, 5)
    found = tna.head_effects(model, prompt, tna.Answer(answer), heads=[(1, 2)], progress=False)
    whole = torch.cat([prompt, torch.tensor(answer)])[None]
    with tna.ablate(model, [(1, 2)]):
        log_p = model(whole)[0].double().log_softmax(-1)
    expected = sum(float(log_p[3 + i, token]) for i, token in enumerate(answer))
    assert float(found.log_prob[1, 2]) == pytest.approx(expected, abs=1e-6)
    assert float(found.base_log_prob) == pytest.approx(
        float(tna.answer(model, prompt, tna.Answer(answer)).log_prob), abs=1e-6
    )
    behind = tna.head_effects(model, prompt, tna.Answer(answer), heads=[(1, 2)], pos=2, progress=False)
    cut = tna.head_effects(model, prompt[:3], tna.Answer(answer), heads=[(1, 2)], progress=False)
    assert torch.equal(behind.base_log_prob, cut.base_log_prob) and not torch.equal(
        cut.base_log_prob, found.base_log_prob
    )
    with pytest.raises(ValueError, match="attention_mask cannot be given with answers"):
        tna.head_effects(model, prompt, tna.Answer(answer), attention_mask=torch.ones(1, 4).long())


def test_answers_of_a_batch_are_those_of_each_prompt_alone():
    model, prompts = architectures.build("gpt2"), architectures.prompts(2, 4)
    either = tna.any_of(tna.Answer((5, 17, 5)), 9, tna.Answer((8, 2)))
    found = tna.head_effects(model, prompts, [either, tna.Answer((3, 4))], heads=[(0, 1), (2, 3)], progress=False)
    parts = [tna.Answer((5, 17, 5)), 9, tna.Answer((8, 2))]
    alone = [tna.head_effects(model, prompts[0], each, heads=[(0, 1), (2, 3)], progress=False) for each in parts]
    for name in ("log_prob", "base_log_prob"):
        expected = torch.stack([getattr(each, name) for each in alone]).logsumexp(0)
        torch.testing.assert_close(getattr(found, name)[0], expected, atol=1e-6, rtol=0, equal_nan=True)
    second = tna.head_effects(model, prompts[1], tna.Answer((3, 4)), heads=[(0, 1)], progress=False)
    torch.testing.assert_close(found.log_prob[1, 0, 1], second.log_prob[0, 1], atol=1e-6, rtol=0)


def test_a_file_gives_back_what_was_saved_also_where_heads_were_left_out(tmp_path):
    model = demo.load()
    for heads in (None, [(0, 1), (3, 6)]):
        found = tna.head_effects(model, "3 + 5 =", "8", heads=heads, progress=False)
        found.save(tmp_path / "heads")
        again = tna.HeadEffects.load(tmp_path / "heads")
        assert str(again) == str(found) and again.ranked() == found.ranked()
        for name in ("prob", "log_prob", "base_prob", "base_log_prob"):
            assert torch.equal(getattr(again, name).nan_to_num(9), getattr(found, name).nan_to_num(9))
    storage.save_tensors(tmp_path / "heads", "head_effects", {"prob": found.prob, "log_prob": found.log_prob}, {})
    with pytest.raises(ValueError, match="field 'base_prob' is missing"):
        tna.HeadEffects.load(tmp_path / "heads")


def test_without_a_target_the_models_own_prediction_is_followed_and_the_mask_says_where():
    model = demo.load()
    ids = torch.tensor([[*model.tokenizer.encode("3 + 5 ="), 0], [*model.tokenizer.encode("1 + 1 ="), 0]])
    mask = torch.ones_like(ids)
    mask[:, -1] = 0
    found = tna.head_effects(model, ids, attention_mask=mask, heads=[(3, 6)], progress=False)
    for i in range(2):
        own = model(ids[i : i + 1, :-1])[0, -1].log_softmax(-1).max()
        assert float(found.base_log_prob[i]) == pytest.approx(float(own), abs=1e-5)


def test_a_target_the_model_hardly_predicts_is_said_to_be_one():
    model = demo.load()
    unlikely, likely = (tna.head_effects(model, "3 + 5 =", t, heads=[(3, 6)], progress=False) for t in ("42", "8"))
    assert float(unlikely.base_log_prob) < -6.9 and "hardly predicts this target" in str(unlikely)
    assert "hardly" not in str(likely)
    three = [replace(each, **{n: getattr(each, n)[None] for n in GRIDS}) for each in (likely, likely, unlikely)]
    most, least = (
        replace(three[0], **{n: torch.cat([getattr(each, n) for each in some]) for n in GRIDS})
        for some in (three, [three[0], three[2], three[2]])
    )
    assert float(most.base_log_prob.mean()) < -6.9 / 3 and "hardly" not in str(most) and "hardly" in str(least)


def test_an_answer_is_not_improbable_for_its_length(tmp_path):
    model = architectures.build("llama")  # each token is about as likely as any other
    found = tna.head_effects(model, architectures.prompts(), tna.Answer((5, 17, 5)), heads=[(1, 1)], progress=False)
    assert found.tokens == 3 and 3 * -6.9 < float(found.base_log_prob.median()) < -6.9 and "hardly" not in str(found)
    found.save(tmp_path / "effects.safetensors")
    assert type(found).load(tmp_path / "effects.safetensors").tokens == 3
    replace(found, tokens=0).save(tmp_path / "effects.safetensors")
    with pytest.raises(ValueError, match=r"field 'text\.tokens' must be a positive integer, got 0"):
        type(found).load(tmp_path / "effects.safetensors")
