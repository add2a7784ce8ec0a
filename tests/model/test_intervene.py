"""Hooks against weights, and both against the stream with the neurons' writes taken out."""

from dataclasses import replace

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures, oracle
from tl_neuron_attr.model.intervene import ablate, edit, keep

COMPONENTS = [(0, 1), (2, 3), ("mlp", 1, 7), ("mlp", 1, 9), ("mlp", 2, 0), ("attn", 1, 2, 5)]
TOKENS = architectures.prompts()


@pytest.fixture(scope="module")
def model():
    return architectures.build("gpt2", dtype=torch.float32)


@torch.no_grad()
@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("name", architectures.DENSE)
def test_hooks_and_weights_agree_bit_for_bit(name, scale):
    model = architectures.build(name, dtype=torch.float32)
    plain = model(TOKENS)
    with ablate(model, COMPONENTS, scale=scale):
        hooked = model(TOKENS)
    assert torch.equal(model(TOKENS), plain)
    with edit(model, COMPONENTS, scale=scale):
        edited = model(TOKENS)
    assert torch.equal(model(TOKENS), plain)
    assert torch.equal(hooked, edited)
    assert not torch.equal(hooked, plain)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "neox_parallel", "gemma"])
def test_removing_neurons_of_the_last_layer_removes_their_writes(name):
    """Predict, then intervene: the final stream without the neurons' writes is what the ablated model has."""
    model = architectures.build(name)
    _, cache = model.run_with_cache(TOKENS)
    last, chosen = architectures.LAYERS - 1, [3, 11, 40]
    with ablate(model, [("mlp", last, i) for i in chosen]):
        _, after = model.run_with_cache(TOKENS)
    final = f"blocks.{last}.hook_resid_post"
    for row in range(2):
        for pos in (0, 6):
            written = oracle.writes(cache, last, "mlp", row, pos)[chosen].sum(0)
            torch.testing.assert_close(after[final][row, pos], cache[final][row, pos] - written, atol=1e-6, rtol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "phi3"])
def test_the_score_is_the_change_that_the_neuron_causes(name):
    """Added to the stream its sublayer read, what ablating a last-layer neuron takes away raises log p by its score."""
    model = architectures.build(name)
    _, cache = model.run_with_cache(TOKENS)
    last = architectures.LAYERS - 1
    mid, final = (cache[f"blocks.{last}.hook_resid_{end}"][0, 6] for end in ("mid", "post"))
    scores = tna.attribute_mlp_neurons(cache, 5, layers=[last])[0, 0]
    for i in (3, 40):
        with ablate(model, [("mlp", last, i)]):
            _, without = model.run_with_cache(TOKENS)
        caused = final - without[f"blocks.{last}.hook_resid_post"][0, 6]
        change = oracle.log_probs(cache, 0, 6, mid + caused)[5] - oracle.log_probs(cache, 0, 6, mid)[5]
        torch.testing.assert_close(scores[i], change, atol=1e-7, rtol=0)


@torch.no_grad()
def test_neurons_of_a_batch_are_ablated_each_in_its_own_prompt(model):
    _, cache = model.run_with_cache(TOKENS)
    value = tna.value_neurons(cache, 5, 6)
    with ablate(model, value):
        together = model(TOKENS)
    for row in range(2):
        with ablate(model, value[row]):
            alone = model(TOKENS[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], atol=1e-6, rtol=1e-6)
    with pytest.raises(ValueError, match="neurons are of 2 prompts, but the model is run on 3"), ablate(model, value):
        model(architectures.prompts(3))
    with pytest.raises(ValueError, match="components are neurons of 2 prompts, which share the weights"):
        edit(model, value)


@torch.no_grad()
def test_lists_of_components_are_ablated_each_in_its_own_prompt(model):
    rows = [[(0, 1)], [("mlp", 1, 7), (2, 2)], []]
    with ablate(model, rows):
        together = model(TOKENS[:1].expand(3, -1))
    for row, named in enumerate(rows):
        with ablate(model, named):
            torch.testing.assert_close(together[row], model(TOKENS[:1])[0], atol=1e-6, rtol=1e-6)
    with pytest.raises(IndexError, match=r"\(0, 1\) is named twice"), ablate(model, [[(1, 1)], [(0, 1), (0, 1)]]):
        pass


@torch.no_grad()
def test_sources_of_one_attention_neuron_are_one_column(model):
    _, cache = model.run_with_cache(TOKENS[:1])
    value = tna.value_neurons(cache, 5, 3, sites=("attn",))[0]
    same = replace(value, layer=value.layer * 0, head=value.head * 0, index=value.index * 0)
    with ablate(model, same):
        several = model(TOKENS)
    with ablate(model, [("attn", 0, 0, 0)]):
        assert torch.equal(several, model(TOKENS))


@torch.no_grad()
def test_a_head_is_all_of_its_dimensions(model):
    with ablate(model, [(1, 2)]):
        head = model(TOKENS)
    with ablate(model, [("attn", 1, 2, i) for i in range(8)]):
        assert torch.equal(head, model(TOKENS))
    with ablate(model, [(1, 2), ("attn", 1, 2, 3)], scale=0.5):
        overlapping = model(TOKENS)
    with ablate(model, [(1, 2)], scale=0.5):
        assert torch.equal(overlapping, model(TOKENS))


@torch.no_grad()
def test_keep_silences_all_others_of_its_layers(model):
    others = [("mlp", layer, i) for layer in (1, 2) for i in range(80) if (layer, i) not in ((1, 7), (2, 9))]
    with ablate(model, others):
        expected = model(TOKENS)
    with keep(model, [("mlp", 1, 7), ("mlp", 2, 9), ("mlp", 0, 5)], layers=[1, 2]):
        assert torch.equal(model(TOKENS), expected)
    with (
        pytest.raises(ValueError, match=r"components must be MLP neurons to be kept, got \(0, 1\)"),
        keep(model, [(0, 1)], layers=[0]),
    ):
        pass
    with pytest.raises(IndexError, match="layers must lie between 0 and 2, got 3"), keep(model, [], layers=[3]):
        pass


@torch.no_grad()
def test_nothing_stays_behind_after_an_exception(model):
    before, weights = model(TOKENS), {n: p.clone() for n, p in model.named_parameters()}
    for change in (ablate(model, COMPONENTS), edit(model, COMPONENTS), keep(model, [], layers=[0])):
        with pytest.raises(ZeroDivisionError), change:
            model(TOKENS)
            raise ZeroDivisionError
    assert torch.equal(model(TOKENS), before)
    assert all(torch.equal(weights[n], p) for n, p in model.named_parameters())
    assert not any(hook.fwd_hooks for hook in model.hook_dict.values())


def test_edits_are_undone_last_one_first(model):
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    first, second = edit(model, [("mlp", 1, 7)], scale=0.5), edit(model, [("mlp", 1, 7), ("mlp", 1, 8)])
    with pytest.raises(RuntimeError, match="undo later edits first"):
        first.undo()
    second.undo()
    first.undo()
    first.undo()
    assert all(torch.equal(weights[n], p) for n, p in model.named_parameters())


@pytest.mark.parametrize(
    "component, message",
    [
        ((3, 0), r"layer of \(3, 0\) must lie between 0 and 2, got 3"),
        ((0, 4), r"head of \(0, 4\) must lie between 0 and 3, got 4"),
        ((0, -1), r"head of \(0, -1\) must lie between 0 and 3, got -1"),
        (("mlp", 0, 80), r"neuron of .* must lie between 0 and 79, got 80"),
        (("attn", 0, 1, 8), r"dimension of .* must lie between 0 and 7, got 8"),
        (("attn", 0, 4, 1), r"head of .* must lie between 0 and 3, got 4"),
    ],
)
def test_components_out_of_range_are_named(model, component, message):
    with pytest.raises(IndexError, match=message):
        edit(model, [component])
    with pytest.raises(IndexError, match=message), ablate(model, [component]):
        pass


def test_a_component_named_twice_is_refused(model):
    with pytest.raises(IndexError, match=r"\('mlp', 0, 1\) is named twice"):
        edit(model, [("mlp", 0, 1), (0, 1), ("mlp", 0, 1)])


@torch.no_grad()
def test_an_expert_neuron_is_scaled_between_taken_out_and_untouched():
    """What its layer writes is linear in the factor: at 1 nothing changes, at 3 thrice its write is there."""
    model, neurons = architectures.build("qwen3_moe"), [f"L1E{expert}N{i}" for expert in range(4) for i in range(8)]
    name = "blocks.1.mlp.hook_out"

    def written(scale: float) -> torch.Tensor:
        with ablate(model, neurons, scale=scale):
            return model.run_with_cache(TOKENS, names_filter=name)[1][name]

    plain = model.run_with_cache(TOKENS, names_filter=name)[1][name]
    torch.testing.assert_close(written(1.0), plain, atol=1e-12, rtol=0)
    own = plain - written(0.0)
    assert own.abs().max() > 1e-3
    torch.testing.assert_close(written(3.0), plain + 2 * own, atol=1e-12, rtol=1e-9)
