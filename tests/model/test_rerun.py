"""Runs that start at a layer against whole runs."""

import warnings
from contextlib import nullcontext

import pytest
import torch

from tests import architectures
from tl_neuron_attr.model.intervene import edit
from tl_neuron_attr.model.rerun import KeptRun, _kept_within, rerun, runs_within

TOKENS, POS = architectures.prompts(), torch.tensor([4, 6])
EVERYTHING = torch.arange(2)


def last(model):
    return model(TOKENS)[EVERYTHING, POS]


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "falcon", "gemma2"])
def test_every_layer_gives_the_runs_own_logits_back(name):
    model = architectures.build(name)
    kept = KeptRun(model, TOKENS, POS)
    assert kept.skips
    torch.testing.assert_close(kept.logits, last(model), atol=1e-12, rtol=0)
    for layer in range(architectures.LAYERS):
        torch.testing.assert_close(kept.from_layer(layer, EVERYTHING), last(model), atol=1e-12, rtol=0)
        swapped = kept.from_layer(layer, EVERYTHING.flip(0))
        torch.testing.assert_close(swapped, last(model).flip(0), atol=1e-12, rtol=0)


@torch.no_grad()
def test_what_is_kept_fits_in_its_share_of_the_cap():
    model, length, layers = architectures.build("gpt2", dtype=torch.float32), 1000, 2
    stream = layers * length * architectures.D_MODEL * 4
    for cap in (1, 4 * stream, 12 * stream, 10**9):
        fitting = min(cap // (4 * stream), runs_within(model, length, cap))
        assert _kept_within(model, length, layers, cap) == max(1, fitting)


def test_blocks_below_are_not_run():
    model = architectures.build("llama")
    kept = KeptRun(model, TOKENS, POS)
    ran = []
    for layer, block in enumerate(model.blocks):
        block.original_component.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
    kept.from_layer(1, EVERYTHING)
    assert ran == [1, 2]


@torch.no_grad()
def test_the_users_own_hooks_act_once():
    model = architectures.build("gpt2")
    add = [(f"blocks.{layer}.hook_resid_pre", lambda resid, hook: resid + 0.1) for layer in range(3)]
    with model.hooks(fwd_hooks=add):
        kept = KeptRun(model, TOKENS, POS)
        expected = last(model)
        for layer in range(3):
            torch.testing.assert_close(kept.from_layer(layer, EVERYTHING), expected, atol=1e-12, rtol=0)


@torch.no_grad()
def test_blocks_that_pass_something_on_by_the_side_are_not_skipped():
    """The last block adds what the first one left behind, as no stream shows."""
    model = architectures.build("llama")
    left = []
    first, final = model.blocks[0].original_component, model.blocks[2].original_component
    first.register_forward_hook(lambda module, args, output: left.append(output.roll(1, -1)))
    final.register_forward_hook(lambda module, args, output: output + left.pop() if left else output)
    with pytest.warns(UserWarning, match="blocks of BlockBridge cannot be skipped exactly"):
        kept = KeptRun(model, TOKENS, POS)
    assert not kept.skips
    expected = last(model)
    torch.testing.assert_close(kept.logits, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(kept.from_layer(2, EVERYTHING), expected, atol=1e-12, rtol=0)


@torch.no_grad()
def test_nothing_stays_behind_after_an_exception():
    model = architectures.build("gpt2")
    expected = last(model)
    kept = KeptRun(model, TOKENS, POS)

    def crash(*_):
        raise ZeroDivisionError

    handle = model.blocks[2].register_forward_pre_hook(crash)
    with pytest.raises(ZeroDivisionError):
        kept.from_layer(1, EVERYTHING)
    handle.remove()
    assert torch.equal(last(model), expected)
    assert not any("forward" in vars(block) for block in model.blocks)
    assert not model.unembed._forward_pre_hooks and not model.blocks[0]._forward_pre_hooks


def test_a_model_that_skips_does_not_warn():
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        assert KeptRun(architectures.build("neox_parallel"), TOKENS, POS).skips


SETS = [[], [(2, 1)], [(0, 3), (1, 2)], [(1, 0), (1, 3), (2, 2)]]


def whole_runs(model, tokens):
    """Every set zeroed in the weights, one whole run each."""
    found = []
    for heads in SETS:
        with edit(model, heads) if heads else nullcontext():
            found.append(model(tokens)[:, -1])
    return torch.stack(found)


@torch.no_grad()
@pytest.mark.parametrize(
    "name, dtype, allowed",
    [
        *((name, torch.float32, 2e-5) for name in architectures.BUILDERS),
        *((name, torch.float64, 1e-9) for name in architectures.DENSE),  # routed experts know no float64
    ],
)
def test_every_set_of_heads_equals_a_whole_run(name, dtype, allowed):
    model = architectures.build(name, dtype=dtype)
    expected = whole_runs(model, TOKENS)
    for options in ({}, {"batch_size": 1}, {"batch_size": 3}, {"max_bytes": 1}):
        found = torch.full_like(expected, torch.nan)
        for runs in rerun(model, TOKENS, SETS, **options):
            assert bool(found[runs.sets, runs.prompts].isnan().all()), "a run came twice"
            found[runs.sets, runs.prompts] = runs.logits
        torch.testing.assert_close(found.log_softmax(-1), expected.log_softmax(-1), atol=allowed, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "gemma3", "bloom"])
def test_a_batch_padded_on_the_left_equals_each_prompt_run_alone(name):
    model = architectures.build(name, dtype=torch.float32)
    tokens, mask = TOKENS.clone(), torch.ones_like(TOKENS)
    tokens[1, :3], mask[1, :3] = 95, 0
    for runs in rerun(model, tokens, SETS, mask=mask, batch_size=3):
        for which, prompt, logits in zip(runs.sets, runs.prompts, runs.logits, strict=True):
            alone = tokens[prompt][mask[prompt] > 0]
            with edit(model, SETS[which]) if SETS[which] else nullcontext():
                expected = model(alone[None])[0, -1]
            torch.testing.assert_close(logits.log_softmax(-1), expected.log_softmax(-1), atol=2e-5, rtol=0)


@torch.no_grad()
def test_only_the_scored_position_is_unembedded():
    model = architectures.build("gpt2")
    shapes = []
    with model.hooks(fwd_hooks=[("unembed.hook_out", lambda logits, hook: shapes.append(tuple(logits.shape)))]):
        list(rerun(model, TOKENS, SETS))
    assert shapes and {shape[1] for shape in shapes} == {1}


@torch.no_grad()
@pytest.mark.parametrize("heads, message", [((3, 0), "between 0 and 2"), ((0, 4), "between 0 and 3")])
def test_a_head_out_of_range_is_refused(heads, message):
    with pytest.raises(IndexError, match=message):
        list(rerun(architectures.build("gpt2"), TOKENS, [[], [heads]]))


@torch.no_grad()
def test_logits_that_only_a_zeroed_head_breaks_are_refused():
    model = architectures.build("gpt2")
    hook = ("blocks.2.hook_resid_pre", lambda resid, hook: resid * (torch.inf if broken else 1))
    with model.hooks(fwd_hooks=[hook]):
        broken = False
        kept = KeptRun(model, TOKENS, POS)
        broken = True
        with pytest.raises(ValueError, match="logits hold NaN or Inf"):
            kept.without([[(1, 0)]], 1, torch.tensor([0]))


@torch.no_grad()
def test_a_block_that_returns_something_unknown_is_not_skipped():
    model = architectures.build("bloom")
    expected = last(model)
    model.blocks[0].register_forward_hook(lambda block, args, output: list(output))
    with pytest.warns(UserWarning, match="cannot be skipped exactly"):
        kept = KeptRun(model, TOKENS, POS)
    assert not kept.skips
    torch.testing.assert_close(kept.from_layer(2, EVERYTHING), expected, atol=1e-12, rtol=0)


def test_as_many_runs_share_a_pass_as_fit():
    """At the least a run holds its stream, and the pattern of every head."""
    model, length = architectures.build("gpt2", dtype=torch.float32), 100
    least = 4 * length * (architectures.D_MODEL + architectures.HEADS * length)
    found = [runs_within(model, length, cap) for cap in (1, 100 * least, 1000 * least)]
    assert found[0] == 1 and 1 < found[1] <= 100 and 9 * found[1] <= found[2] <= 1000


@torch.no_grad()
def test_a_weight_of_which_one_number_is_none_is_named():
    model = architectures.build("gpt2")
    model.blocks[1].mlp.W_out[3, 4] = torch.nan
    with pytest.raises(ValueError, match=r"the model's weight transformer.h.1.mlp.c_proj.weight holds NaN or Inf"):
        KeptRun(model, TOKENS, POS)
