"""What most prompts share, counted by hand, and left out of value and query lists."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.knowledge.common_neurons import common_neurons

PROMPTS = ["w1 w2 w3", "w4 w5 w6 w7", "w8 w9 w3"]


@pytest.fixture(scope="module")
def model():
    """A model in which one neuron's activation is massive at the first position."""
    model = architectures.build("gpt2", dtype=torch.float32)
    with torch.no_grad():
        model.blocks[1].mlp.b_in[7] = 5000.0
    return model


@pytest.fixture(scope="module")
def common(model):
    return common_neurons(model, PROMPTS, k=20, progress=False)


def test_a_massive_activation_is_found_with_its_ratio(model, common):
    row = common.frame.set_index("neuron").loc["L1N7"]
    ratios = []
    for prompt in PROMPTS:
        _, cache = model.run_with_cache(prompt)
        size = cache["blocks.1.mlp.hook_post"][0].abs()
        ratios.append(float(size[:, 7].max() / size.median()))
    assert row["massive"] == 1.0
    assert row["ratio"] == pytest.approx(sorted(ratios)[1], rel=1e-5)


def test_shares_are_those_of_the_lists(model, common):
    lists = {"value": [], "query": []}
    for prompt in PROMPTS:
        logits, cache = model.run_with_cache(prompt)
        value = tna.value_neurons(cache, int(logits[0, -1].argmax()), k=20)[0]
        query = tna.query_neurons(cache, value.unsqueeze(), k=20)[0]
        for kind, found in (("value", value), ("query", query)):
            lists[kind].append({label.split("@")[0] for label in found.labels})
    for kind, sets in lists.items():
        for label in set.union(*sets):
            share = sum(label in each for each in sets) / 3
            row = common.frame[common.frame["neuron"] == label]
            assert len(row) or share <= 0.5
            assert not len(row) or float(row[kind].iloc[0]) == pytest.approx(share)


def test_targets_of_several_tokens_count_by_the_lists_of_the_whole_answer(model):
    targets = ["w5 w9", 7, tna.Answer.of(model, "w3 w4")]
    found = common_neurons(model, PROMPTS, targets=targets, k=20, share=0.3, progress=False).frame.set_index("neuron")
    value = tna.value_neurons(tna.answer(model, PROMPTS[0], " w5 w9"), k=20)
    query = tna.query_neurons(tna.answer(model, PROMPTS[0], " w5 w9"), value, k=20)
    for kind, lists in (("value", value), ("query", query)):
        assert all(found.loc[label.split("@")[0], kind] >= 0.3 for label in lists.labels)


def test_a_contrast_counts_the_lists_of_the_difference(model):
    targets, contrast = ["w5 w9", "w7", "w3"], ["w8", "w6 w2", 9]
    found = common_neurons(model, PROMPTS, targets=targets, contrast=contrast, k=20, share=0.3, progress=False).frame
    for prompt, target, other in zip(PROMPTS, targets, contrast, strict=True):
        other = other if isinstance(other, str) else model.tokenizer.decode([other])
        mine, theirs = (tna.attribute_mlp_neurons(tna.answer(model, prompt, f" {each}")) for each in (target, other))
        best = (mine - theirs).flatten().topk(20)
        both = tna.value_neurons(tna.answer(model, prompt, f" {target}", contrast=f" {other}"), k=20)
        listed = [label for label in both.labels if "N" in label]
        mlp = [f"L{int(j) // 80}N{int(j) % 80}" for j in best.indices][: len(listed)]
        assert mlp == listed
        assert set(mlp) <= set(found[found["value"] > 0.3]["neuron"])


@pytest.mark.parametrize("sites", [("mlp",), ("mlp", "attn")])
def test_lists_without_them_are_the_lists_with_them_struck_out(model, common, sites):
    _, cache = model.run_with_cache(PROMPTS[1])
    every = tna.value_neurons(cache, 5, k=sum(tna_count(model, cache, sites)), sites=sites, text=False)[0]
    kept = [label for label in every.labels if label not in common][:15]
    found = tna.value_neurons(cache, 5, k=15, sites=sites, exclude_common=common)
    assert found[0].labels == kept and found.text is not None
    query = tna.query_neurons(cache, found, k=400, sites=sites, text=False)[0]
    assert any(label in common for label in query.labels)
    without = tna.query_neurons(cache, found, k=10, sites=sites, exclude_common=common)[0]
    assert without.labels == [label for label in query.labels if label not in common][:10]


def tna_count(model, cache, sites):
    mlp, attn = tna.attribute_mlp_neurons(cache, 5), tna.attribute_attn_neurons(cache, 5)
    return [mlp.numel() * ("mlp" in sites), attn.numel() * ("attn" in sites)]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"prompts": ["w1"]}, "prompts must be at least two, got 1"),
        ({"targets": ["w1"]}, "targets must be one per prompt: 3 prompts, 1 targets"),
        ({"contrast": ["w1"]}, "contrast must be one for all prompts or one for each of the 3, got 1"),
        ({"contrast": "zyx"}, r"contrast\[0\]='zyx' is not in the model's vocabulary"),
        ({"share": 1.0}, "share must lie between 0 and 1, got 1.0"),
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"massive_ratio": float("nan")}, "massive_ratio must be at least 1, got nan"),
        ({"prompts": ["w1", ""]}, "prompt is empty"),
    ],
)
def test_bad_input_is_named(model, change, message):
    with pytest.raises(ValueError, match=message):
        common_neurons(model, **{"prompts": PROMPTS, "progress": False} | change)


def test_what_another_model_shares_is_refused(common):
    other = tna.demo.load()
    _, cache = other.run_with_cache("3 + 5 =")
    with pytest.raises(ValueError, match="exclude_common is of a model with"):
        tna.value_neurons(cache, "8", exclude_common=common)


def test_rows_are_counted_from_the_most_common(common):
    assert common.frame.index.tolist() == list(range(len(common.frame))) and len(common.frame) > 1
    assert common.frame["query"].is_monotonic_decreasing
