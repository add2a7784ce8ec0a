"""Whatever names a component names the same one everywhere; whatever does not is refused with its place."""

import numpy as np
import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.model.components import component_lists, required_head, required_heads
from tl_neuron_attr.model.intervene import ablate, ablation_hooks, edit, keep

TOKENS = architectures.prompts()
TAKERS = {
    "ablate": ablate,
    "ablation_hooks": ablation_hooks,
    "edit": edit,
    "keep": lambda model, components: keep(model, components, layers=[1]),
}


@pytest.fixture(scope="module")
def model():
    return architectures.build("gpt2", dtype=torch.float32)


@pytest.mark.parametrize(
    "spelled, component",
    [
        ("L1N7", ("mlp", 1, 7)),
        ("L2H3", (2, 3)),
        ("L1H2D5", ("attn", 1, 2, 5)),
        ("L1H2D5@3", ("attn", 1, 2, 5)),
        ((np.int64(2), torch.tensor(3)), (2, 3)),
        (("mlp", np.int32(1), torch.tensor(7)), ("mlp", 1, 7)),
    ],
)
@torch.no_grad()
def test_labels_and_integers_of_other_libraries_are_the_tuples_they_spell(model, spelled, component):
    assert component_lists(model, [spelled]) == [[component]]
    assert all(type(each) in (int, str) for each in component_lists(model, [spelled])[0][0])
    with ablate(model, [component]):
        expected = model(TOKENS)
    with ablate(model, [spelled]):
        assert torch.equal(model(TOKENS), expected)
    with edit(model, [spelled]):
        assert torch.equal(model(TOKENS), expected)
    assert not torch.equal(model(TOKENS), expected)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2])
def test_the_labels_of_found_neurons_name_them(model, batch):
    _, cache = model.run_with_cache(TOKENS[:batch])
    value = tna.value_neurons(cache, 5, 8)
    assert component_lists(model, value.labels) == component_lists(model, value)
    with ablate(model, value):
        expected = model(TOKENS[:batch])
    with ablate(model, value.labels):
        assert torch.equal(model(TOKENS[:batch]), expected)


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize(
    "components, place",
    [
        (["xyz"], r"components\[0\]"),
        ([(0, 1), "L1X7"], r"components\[1\]"),
        (["L1N7@3"], r"components\[0\]"),
        (["L1H2@3"], r"components\[0\]"),
        ([("attn", 1, 2)], r"components\[0\]"),
        ([("mlp", 1, 2, 3)], r"components\[0\]"),
        ([("ffn", 1, 2)], r"components\[0\]"),
        ([(1, 2, 3)], r"components\[0\]"),
        ([()], r"components\[0\]"),
        (["L١N٧"], r"components\[0\]"),
        (["L" + "9" * 5000 + "N1"], r"components\[0\]"),
        (["x" * 5000], r"components\[0\]"),
        ([(True, 1)], r"components\[0\]"),
        ([(np.bool_(True), 1)], r"components\[0\]"),
        ([(torch.tensor(True), 1)], r"components\[0\]"),
        ([(1.0, 1)], r"components\[0\]"),
        ([(torch.tensor([1]), 1)], r"components\[0\]"),
        ([3], r"components\[0\]"),
        ([None], r"components\[0\]"),
        ([[3, 2]], r"components\[0\]\[0\]"),
        ([[(0, 1)], (0, 1)], r"components\[1\]"),
        ([(0, 1), [(0, 2)]], r"components\[1\]"),
        (iter([(0, 1)]), "components must be a list"),
        ({(0, 1)}, "components must be a list"),
        (np.array([[0, 1]]), "components must be a list"),
        (torch.tensor([[0, 1]]), "components must be a list"),
        ("L1N7", r"write \['L1N7'\]"),
        (3, "components must be a list"),
        ((1, 2), r"components\[0\]"),
    ],
)
def test_what_names_no_component_is_refused_with_its_place(model, taker, components, place):
    with pytest.raises(TypeError, match=place) as raised:
        TAKERS[taker](model, components)
    assert len(str(raised.value).splitlines()) <= 3 and len(str(raised.value)) < 500
    assert not any(hook.fwd_hooks for hook in model.hook_dict.values())


def test_one_attention_neuron_of_several_sources_is_one_component_and_twice_the_same_label_is_not(model):
    assert component_lists(model, ["L0H1D3@2", "L0H1D3@5"]) == [[("attn", 0, 1, 3)]]
    for twice in (["L0H1D3@2", "L0H1D3@2"], ["L0H1D3", ("attn", 0, 1, 3)], ["L1N7", ("mlp", 1, 7)]):
        with pytest.raises(IndexError, match="is named twice"):
            component_lists(model, twice)


def test_heads_are_pairs_or_labels_and_all_by_default(model):
    assert required_heads(model, ["L1H2", (0, 3)]) == [(1, 2), (0, 3)]
    assert required_heads(model, None) == [(layer, h) for layer in range(3) for h in range(4)]
    assert required_head(model, "L1H2") == (1, 2)
    with pytest.raises(ValueError, match="heads is empty: give some"):
        required_heads(model, [], fix="give some")
    with pytest.raises(TypeError, match=r"heads\[1\] must be a head"):
        required_heads(model, [(0, 1), "L1N7"])
    with pytest.raises(TypeError, match="head must be a head"):
        required_head(model, ("mlp", 1, 7))
    with pytest.raises(IndexError, match="is named twice"):
        required_heads(model, [(1, 2), "L1H2"])
    with pytest.raises(IndexError, match=r"head of .* between 0 and 3, got 4"):
        required_head(model, (0, 4))


@torch.no_grad()
def test_functions_of_heads_take_labels(model):
    by_pair, by_label = (tna.head_effects(model, TOKENS[0], 5, heads=[head]) for head in ((1, 2), "L1H2"))
    assert torch.equal(by_pair.prob[1, 2], by_label.prob[1, 2])


def test_an_attention_only_model_has_heads_and_no_neurons():
    model = architectures.native(attn_only=True)
    assert component_lists(model, [(0, 1)]) == [[(0, 1)]]
    with pytest.raises(ValueError, match=r"layer 0 has no MLP neurons .*, or attention only"):
        component_lists(model, ["L0N1"])


def test_a_scale_beyond_the_dtype_is_refused(model):
    for take in (ablate, edit):
        with pytest.raises(ValueError, match=r"scale must lie within torch.float32, the model's dtype, got 1e\+39"):
            take(model, [(0, 1)], scale=1e39)
