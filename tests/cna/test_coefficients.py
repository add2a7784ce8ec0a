import math

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tests import architectures
from tl_neuron_attr import cna
from tl_neuron_attr.cna import Case
from tl_neuron_attr.cna.coefficients import sizes
from tl_neuron_attr.cna.random_adapter import random_adapter

CASES = [Case(tuple(row.tolist()), 5 + i) for i, row in enumerate(architectures.prompts(3))]


def perturbed(name, amount=0.3, seed=3):
    """Another model of the same shape: what a user's own fine-tune would be."""
    model = architectures.build(name)
    with torch.no_grad():
        for block in model.blocks[1:]:
            block.attn.W_O.add_(
                amount * torch.randn(block.attn.W_O.shape, generator=torch.Generator().manual_seed(seed))
            )
    return model


@torch.no_grad()
def scored_slowly(model, norm_of, case):
    """Increase and coefficient of every MLP neuron, one log_softmax each, read out with another run's final scale."""
    _, cache = model.run_with_cache(torch.tensor([case.tokens]))
    _, frozen = norm_of.run_with_cache(torch.tensor([case.tokens]))
    scale, weight = frozen["ln_final.hook_scale"][0, -1], norm_of.ln_final.w

    def log_prob(stream):
        return (((stream / scale) * weight) @ norm_of.W_U + norm_of.b_U).log_softmax(-1)[case.answer]

    rows = []
    for layer, block in enumerate(model.blocks):
        base = cache[f"blocks.{layer}.hook_resid_mid"][0, -1]
        for i, c in enumerate(cache[f"blocks.{layer}.mlp.hook_post"][0, -1]):
            rows.append((float(log_prob(base + c * block.mlp.W_out[i]) - log_prob(base)), float(c)))
    return rows


def test_any_two_models_are_compared_as_a_slow_loop_compares_them():
    model, other = architectures.build("llama"), perturbed("llama")
    found = cna.coefficient_increase(model, {"mine": other}, CASES, ks=[7, 2], progress=False)
    for k in (7, 2):
        size = before = after = 0.0
        for case in CASES:
            ours, theirs = scored_slowly(model, model, case), scored_slowly(other, model, case)
            best = sorted(range(len(ours)), key=lambda i: ours[i][0] - theirs[i][0])[:k]
            for i in best:
                sign = 1 if theirs[i][1] > 0 else -1
                size, before, after = size + abs(ours[i][1]), before + sign * ours[i][1], after + sign * theirs[i][1]
        assert found.wide().loc["mine", k] == pytest.approx((after - before) / size, abs=1e-6)
    right = [int(other(torch.tensor([case.tokens]))[0, -1].argmax()) == case.answer for case in CASES]
    assert found.accuracy["mine"] == pytest.approx(sum(right) / 3)
    assert str(found).count("mine") == 1


def test_an_adapter_is_compared_as_the_model_it_makes():
    model = architectures.build("llama")
    adapter = cna.train_lora(model, CASES, layer=0, learning_rate=2e-2, epochs=8, progress=False)
    whole = architectures.build("llama")
    others = {"adapter": adapter}
    with adapter.attached(whole):
        others["merged"] = whole
        found = cna.coefficient_increase(model, others, CASES, ks=[5], batch_size=2, progress=False)
    assert found.wide().loc["adapter", 5] == pytest.approx(found.wide().loc["merged", 5], rel=1e-9)
    assert found.accuracy["adapter"] == found.accuracy["merged"]


def test_a_model_compared_with_itself_has_gained_nothing():
    model = architectures.build("gpt2")
    found = cna.coefficient_increase(model, {"itself": model}, CASES, ks=[4], progress=False)
    assert found.wide().to_numpy().tolist() == [[0.0]]


def test_sizes_count_along_the_sign_of_the_other_model():
    before, after = torch.tensor([[2.0, -1.0, 0.0]]), torch.tensor([[3.0, 2.0, -4.0]])
    assert sizes(before, after).tolist() == [3.0, 2.0 - 1.0, 9.0]


def test_models_that_do_not_correspond_are_refused():
    model = architectures.build("llama")
    with pytest.raises(ValueError, match="others is empty"):
        cna.coefficient_increase(model, {}, CASES)
    with pytest.raises(ValueError, match="cases is empty"):
        cna.coefficient_increase(model, {"a": model}, [])
    with pytest.raises(ValueError, match="cannot be compared neuron by neuron"):
        pruned = architectures.build("llama")
        cna.prune_mlp(pruned, [("mlp", 1, 0)], [1], structured=True)
        cna.coefficient_increase(model, {"pruned": pruned}, CASES, progress=False)
    with pytest.raises(ValueError, match="k must be between 1 and the 240 mlp neurons, got 241"):
        cna.coefficient_increase(model, {"a": model}, CASES, ks=[241], progress=False)


def test_tokenizers_that_do_not_share_a_token_are_refused():
    model, other = architectures.build("llama"), perturbed("llama")
    renamed = with_other_words(other.tokenizer)
    other.tokenizer = renamed
    with pytest.raises(ValueError, match=r"token \d+ is 'w\d+' to cache's tokenizer and 'v\d+' to other's"):
        cna.coefficient_increase(model, {"other": other}, CASES, progress=False)


def with_other_words(tokenizer) -> PreTrainedTokenizerFast:
    words = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str().replace('"w', '"v'))
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")


def test_a_random_change_of_the_same_size_stands_beside_an_adapter():
    model = architectures.build("llama")
    adapter = cna.train_lora(model, CASES, layer=0, learning_rate=2e-2, epochs=2, progress=False)
    found = cna.coefficient_increase(model, {"mine": adapter, "model": model}, CASES, ks=[5], progress=False)
    alone = {"drawn": random_adapter(adapter)}
    expected = cna.coefficient_increase(model, alone, CASES, ks=[5], control=False, progress=False)
    mine, other = found.frame.to_dict("records")
    assert mine["control"] == pytest.approx(expected.wide().loc["drawn", 5]) and mine["control"] != mine["increase"]
    assert math.isnan(other["control"]) and expected.frame["control"].isna().all()
    assert [row[0] for row in found.table().rows] == ["mine", "mine, random change", "model"]
    assert found.accuracy["mine, random change"] == expected.accuracy["drawn"]


def test_only_the_layers_named_are_searched_and_against_the_contrast():
    model, other = architectures.build("llama"), perturbed("llama")
    found = cna.coefficient_increase(model, {"o": other}, CASES[:1], ks=[3], layers=[2], contrast=7, progress=False)
    tokens = torch.tensor([CASES[0].tokens])
    caches = [each.run_with_cache(tokens)[1] for each in (model, other)]
    top = cna.changed_neurons(*caches, CASES[0].answer, 3, layers=[2], largest=False, contrast=7)[0]
    before, after = (cache["blocks.2.mlp.hook_post"][0, -1, top.index] for cache in caches)
    size, old, new = sizes(before[None], after[None]).tolist()
    assert found.wide().loc["o", 3] == pytest.approx((new - old) / size)
