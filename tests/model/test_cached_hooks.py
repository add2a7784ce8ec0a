"""Gemma 4: blocks that add a third output and multiply the stream, against what transformers' own modules give.

The oracle knows the stream as it is: it follows what each sublayer wrote through the scalars of all blocks behind it.
"""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tests.oracle import unwrapped
from tl_neuron_attr.model.cached_hooks import CachedHooks
from tl_neuron_attr.model.head_inputs import carried_back
from tl_neuron_attr.model.stream import Stream

NAMES = list(architectures.GEMMA4)
TARGET, EPS, LAYERS = 5, 1e-6, range(architectures.LAYERS)
SCALARS = architectures.SCALARS
ONWARD = [SCALARS[0] * SCALARS[1] * SCALARS[2], SCALARS[1] * SCALARS[2], SCALARS[2]]


def close(got, expected, atol=1e-9):
    torch.testing.assert_close(got, expected, atol=atol, rtol=0)


def rms(read):
    return (read.square().mean(-1, keepdim=True) + EPS).sqrt()


def increase(cache, row, layer, site, vectors):
    """What vectors of the raw stream make of log p(target) at the last position, once they arrive at the end."""
    model = unwrapped(cache.model.original_model)
    final = cache[f"blocks.{LAYERS[-1]}.hook_resid_post"][row, -1]
    base = cache[f"blocks.{layer}.hook_resid_{'pre' if site == 'attn' else 'mid'}"][row, -1]

    def log_p(stream):
        normed = stream * ONWARD[layer] / rms(final) * model.model.norm.weight
        return model.lm_head(normed).log_softmax(-1)[..., TARGET]

    return log_p(base + vectors) - log_p(base)


def module(cache, layer):
    return unwrapped(cache.model.blocks[layer].original_component)


def mlp_writes(cache, layer, row):
    """What each neuron of the dense MLP wrote; beside experts it passes a norm of its own first."""
    at = f"blocks.{layer}."
    wrote = cache[f"{at}mlp.hook_post"][row, -1][:, None] * unwrapped(module(cache, layer).mlp.down_proj).weight.T
    if (beside := f"{at}post_feedforward_layernorm_1.hook_in") in cache:
        wrote = (
            wrote / rms(cache[beside][row, -1]) * unwrapped(module(cache, layer).post_feedforward_layernorm_1).weight
        )
    read = cache[f"{at}ln2_post.hook_in"][row, -1]
    return wrote / rms(read) * unwrapped(module(cache, layer).post_feedforward_layernorm).weight


def attn_writes(cache, layer, row):
    """``[head, d_head, source, d_model]``, of values that passed their norm; a last layer may share those before it."""
    at, own = f"blocks.{layer}.", module(cache, layer)
    of_values = layer if f"{at}attn.v_norm.hook_out" in cache else layer - 1
    v = cache[f"blocks.{of_values}.attn.v_norm.hook_out"][row]
    v = v.repeat_interleave(architectures.HEADS // v.shape[1], dim=1)
    W_O = unwrapped(own.self_attn.o_proj).weight.T.unflatten(0, (architectures.HEADS, -1))
    wrote = torch.einsum("hs,shj,hjd->hjsd", cache[f"{at}attn.hook_pattern"][row, :, -1], v, W_O)
    return wrote / rms(cache[f"{at}ln1_post.hook_in"][row, -1]) * unwrapped(own.post_attention_layernorm).weight


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_scores_equal_those_of_the_stream_as_transformers_has_it(name):
    _, cache = architectures.run(name)
    layers = tna.attribute_layers(cache, TARGET)
    mlp, attn = tna.attribute_mlp_neurons(cache, TARGET), tna.attribute_attn_neurons(cache, TARGET)
    heads = tna.attribute_heads(cache, TARGET)
    for layer in LAYERS:
        of_mlp = cache[f"blocks.{layer}.hook_resid_post"] / SCALARS[layer] - cache[f"blocks.{layer}.hook_resid_mid"]
        for row in (0, 1):
            close(layers.mlp[row, layer], increase(cache, row, layer, "mlp", of_mlp[row, -1]), 1e-6)
            close(mlp[row, layer], increase(cache, row, layer, "mlp", mlp_writes(cache, layer, row)))
            wrote = attn_writes(cache, layer, row)
            found = attn[row, layer, ..., : wrote.shape[1]]
            close(found, increase(cache, row, layer, "attn", wrote.transpose(1, 2)))
            close(heads[row, layer], increase(cache, row, layer, "attn", wrote.sum((1, 2))))
            close(layers.attn[row, layer], increase(cache, row, layer, "attn", wrote.sum((0, 1, 2))), 1e-6)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:Gemma4TextArchitectureAdapter does not support fold_ln")
@pytest.mark.parametrize("name", NAMES)
def test_scores_in_compatibility_mode_are_those_in_default_mode(name):
    found = []
    for compat in (False, True):
        _, cache = architectures.run(name, compat=compat)
        scores = (tna.attribute_heads, tna.attribute_mlp_neurons, tna.attribute_attn_neurons)
        found.append([tna.attribute_layers(cache, TARGET).mlp, *(score(cache, TARGET) for score in scores)])
    for default, compatible in zip(*found, strict=True):
        close(compatible, default, 1e-7)  # transformers computes norms in float32


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_what_was_written_sums_to_the_final_stream(name):
    stream = Stream(architectures.run(name)[1])
    total = stream.at("blocks.0.hook_resid_pre", stream.last)
    for sublayer in stream.sublayers(stream.last):
        written = torch.einsum("nd,bns->bd", sublayer.unscaled_directions(), sublayer.scaled_coefficients())
        close(written + sublayer.bias, sublayer.out, 1e-6)  # transformers computes norms in float32
        close(sublayer.base, total, 1e-6)
        total = total + sublayer.out
    close(total, stream.cache[f"blocks.{LAYERS[-1]}.hook_resid_post"][:, -1], 1e-6)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_query_scores_sum_to_the_values_they_switch_on(name):
    _, cache = architectures.run(name)
    value = tna.value_neurons(cache, TARGET, 60)
    assert {*value.site.flatten().tolist()} == {0, 1}
    if name == "gemma4":
        assert ((value.site == 0) & (value.layer == LAYERS[-1])).any()  # reads the stream one layer earlier
    layers = tna.query_layers(cache, value)
    close(layers.embed + layers.attn.sum(1) + layers.mlp.sum(1), value.score.sum(1), 1e-6)
    assert len(tna.query_neurons(cache, value, 10)) == 10


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_a_cache_of_what_is_needed_gives_the_same_and_a_filtered_hook_is_named(name):
    model = architectures.build(name)
    _, full = model.run_with_cache(architectures.prompts())
    small = tna.run(model, architectures.prompts())
    found = [tna.value_neurons(cache, TARGET, 9) for cache in (full, small)]
    assert found[0] == found[1] and len(small) < len(full) / 2
    mlp = tna.value_neurons(full, TARGET, 9, sites="mlp")  # what switched attention neurons on lies at other positions
    queries = [tna.query_neurons(cache, mlp, 9) for cache in (full, small)]
    assert queries[0] == queries[1]
    needed = tna.hooks_needed(model)
    _, cut = model.run_with_cache(
        architectures.prompts(), names_filter=lambda hook: needed(hook) and "ln_final" not in hook
    )
    with pytest.raises(ValueError, match=r"cache lacks ln_final.hook_in; run_with_cache .*ln_final.hook_in"):
        tna.attribute_layers(cut, TARGET)


def test_a_plain_model_has_nothing_computed():
    _, cache = architectures.run("llama")
    hooks = CachedHooks(cache, cache.model)
    assert all(hooks.behind(name) == (name,) and hooks[name] is cache[name] for name in cache)


@torch.no_grad()
def test_an_edited_scalar_is_refused():
    model = architectures.build("gemma4")
    _, cache = model.run_with_cache(architectures.prompts())
    model.blocks[1].original_component.layer_scalar.fill_(1.5)
    with pytest.raises(ValueError, match="layer 1: resid_pre \\+ attn_out \\+ mlp_out != resid_post"):
        tna.attribute_layers(cache, TARGET)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_verify_reads_shared_values_and_what_follows_values_back_is_refused(name):
    model, tokens = architectures.build(name, dtype=torch.float32), architectures.prompts(1)
    _, cache = model.run_with_cache(tokens)
    value = tna.value_neurons(cache, TARGET, 20, sites="attn")
    first = int((value.layer[0] == 2).nonzero()[0])
    head, index, source = (int(getattr(value, each)[0, first]) for each in ("head", "index", "source"))
    at = "blocks.2.attn.v_norm.hook_out"
    v = cache[at if at in cache else "blocks.1.attn.v_norm.hook_out"][0, source]
    carried = (
        cache["blocks.2.attn.hook_pattern"][0, head, -1, source] * v.repeat_interleave(4 // len(v), 0)[head, index]
    )

    def less(z, hook):
        z[0, -1, head, index] -= carried
        return z

    logits = [model.run_with_hooks(tokens, fwd_hooks=hooks)[0, -1] for hooks in ([], [("blocks.2.attn.hook_z", less)])]
    expected = logits[0].log_softmax(-1)[TARGET] - logits[1].log_softmax(-1)[TARGET]
    measured = tna.evaluate.verify(model, tokens, value, TARGET, progress=False)
    close(measured.neurons.effect.flatten()[first].float(), expected, 1e-5)
    assert abs(expected) > 1e-4
    with pytest.raises(ValueError, match="the values of layer 2 pass a norm of their own"):
        carried_back(Stream(cache), 2, 0, 6, torch.ones(architectures.D_MODEL))
    with pytest.raises(ValueError, match="the relevance rule follows attention, MLPs and norms"):
        tna.evaluate.estimate_effects(model, tokens, TARGET, method="relevance")
