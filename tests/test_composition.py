"""What the package finds goes into TransformerLens' own tools as it is, and the two agree where they say the same."""

import pytest
import torch
from transformer_lens import patching
from transformer_lens.tools.analysis import (
    SubspaceInterchange,
    direct_logit_attribution,
    logit_lens,
    neuron_basis,
    run_with_intervention,
)

import tl_neuron_attr as tna

CLEAN, CORRUPT, TARGET, OTHER = (
    "Tim Duncan plays the sport of",
    "Roger Federer plays the sport of",
    " basketball",
    " golf",
)


@pytest.fixture(scope="module")
def model():
    return tna.demo.load()


@pytest.fixture(scope="module")
def cache(model):
    return model.run_with_cache(CLEAN)[1]


@pytest.fixture(scope="module")
def value(cache):
    return tna.value_neurons(cache, TARGET, 30)


def test_ablations_join_other_hooks_in_run_with_hooks(model, value):
    seen = []
    watch = ("blocks.4.hook_resid_post", lambda activation, hook: seen.append(activation))
    logits = model.run_with_hooks(CLEAN, fwd_hooks=[*tna.ablation_hooks(model, value), watch])
    with tna.ablate(model, value):
        assert torch.equal(logits, model(CLEAN))
    assert len(seen) == 1
    assert not torch.equal(logits, model(CLEAN))


@torch.no_grad()
def test_mlp_indices_are_a_neuron_basis(model, cache, value):
    """Interchanging a layer's value neurons with zeros at the scored position silences them there."""
    layer = int(value.top(1).layer)
    indices = value.mlp_indices(layer)
    swap = SubspaceInterchange(neuron_basis(model.cfg.d_mlp, indices))
    hook, last = f"blocks.{layer}.mlp.hook_post", torch.tensor([cache["embed"].shape[1] - 1])
    source = torch.zeros(1, model.cfg.d_mlp)
    swapped = run_with_intervention(model, hook, swap, model.to_tokens(CLEAN), source, model, positions=last)

    def silence(activation, hook):
        activation[:, -1, indices] = 0
        return activation

    silenced = model.run_with_hooks(CLEAN, fwd_hooks=[(hook, silence)])
    torch.testing.assert_close(swapped, silenced, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_heads_index_the_patching_results(model, cache, value):
    """Patched into a prompt of another athlete, the first head found brings the answer nearer; most heads do not."""
    target = model.to_single_token(TARGET)

    def log_p(logits):
        return logits[0, -1].log_softmax(-1)[target]

    corrupt = model.to_tokens(CORRUPT)
    patched = patching.get_act_patch_attn_head_out_all_pos(model, corrupt, cache, log_p)
    gain = patched - log_p(model(corrupt))
    assert gain[value.heads[0]] > 0
    assert gain[value.heads[0]] > gain.flatten().median()
    assert all(gain[head].isfinite() for head in value.heads)


@torch.no_grad()
def test_contrasted_heads_are_the_direct_logit_attribution():
    """``log p(w) - log p(w')`` is a logit difference, so a head's contrasted score is its direct attribution."""
    model = tna.demo.load()
    model.enable_compatibility_mode()
    _, cache = model.run_with_cache(CLEAN)
    direct = direct_logit_attribution(model, CLEAN, TARGET, OTHER, unit="head", cache=cache)
    heads = model.cfg.n_layers * model.cfg.n_heads
    ours = tna.attribute_heads(cache, TARGET, contrast=OTHER)
    torch.testing.assert_close(ours.flatten(), direct.attribution[:heads, 0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_layer_scores_are_the_steps_of_the_logit_lens(model, cache):
    """With the contrast, the steps of a lens at the final norm's scale: what attention and MLP of a layer add."""
    pair = [model.to_single_token(word) for word in (TARGET, OTHER)]
    lens = logit_lens(model, cache=cache, vocab=pair).readout.values.reshape(-1, 2)
    scale = cache["ln_final.hook_scale"][0, -1]
    resid = [cache[f"blocks.{layer}.hook_resid_pre"][0, -1] for layer in range(model.cfg.n_layers)]
    resid.append(cache[f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"][0, -1])
    frozen = [(r / scale * model.ln_final.weight) @ (model.W_U[:, pair[0]] - model.W_U[:, pair[1]]) for r in resid]
    scores = tna.attribute_layers(cache, TARGET, contrast=OTHER)
    torch.testing.assert_close((scores.attn + scores.mlp)[0], torch.stack(frozen).diff(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(lens[-1, 0] - lens[-1, 1], frozen[-1], atol=1e-4, rtol=1e-4)
