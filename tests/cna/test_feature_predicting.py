"""The first stage, and mask / keep / coefficient, against a float64 loop and edits of the weights."""

from collections.abc import Callable
from importlib import import_module

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures, oracle
from tl_neuron_attr import cna
from tl_neuron_attr.cna import Case
from tl_neuron_attr.cna.feature_predicting import coefficient_drop

HEAD = (1, 2)


@torch.no_grad()
def said(model, n=6) -> list[Case]:
    """Prompts of two lengths, answered as the model does, and one it gets wrong."""
    prompts = [architectures.prompts(1, 4 + 2 * (i % 2), seed=i) for i in range(n)]
    best = [int(model(p)[0, -1].argmax()) for p in prompts]
    best[1] = (best[1] + 1) % architectures.VOCAB
    return [Case(tuple(p[0].tolist()), token) for p, token in zip(prompts, best, strict=True)]


@torch.no_grad()
def changes(model, case, parts) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``[layer, neuron]``: change by the oracle, and the coefficients of both runs."""
    tokens, pos = torch.tensor([case.tokens]), len(case.tokens) - 1
    _, cache = model.run_with_cache(tokens)
    with tna.edit(model, parts):
        _, other = model.run_with_cache(tokens)
    scores = []
    for run in (cache, other):
        layers = []
        for layer in range(model.cfg.n_layers):
            base, writes = oracle.base(run, layer, "mlp", 0, pos), oracle.writes(run, layer, "mlp", 0, pos)
            before, after = (oracle.log_probs(cache, 0, pos, r)[..., case.answer] for r in (base, base + writes))
            layers.append(after - before)
        scores.append(torch.stack(layers))
    coefficients = [torch.stack([r[f"blocks.{i}.mlp.hook_post"][0, pos] for i in range(3)]) for r in (cache, other)]
    return scores[0] - scores[1], *coefficients


def best(change, k) -> list[tuple[str, int, int]]:
    flat = change.flatten().topk(k).indices.tolist()
    return [("mlp", *divmod(i, change.shape[1])) for i in flat]


@torch.no_grad()
def share_right(model, cases, zeroed: Callable[[Case], list]) -> float:
    right = []
    for case in cases:
        with tna.edit(model, zeroed(case)):
            right.append(int(model(torch.tensor([case.tokens]))[0, -1].argmax()) == case.answer)
    return sum(right) / len(right)


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox_parallel", "gemma2"])
def test_the_four_columns_are_what_editing_the_weights_gives(name):
    model = architectures.build(name)
    cases, layers = said(model), [1, 2]
    measured = {case: changes(model, case, [HEAD]) for case in cases}
    found = cna.mask_keep_coef(model, cases, HEAD, ks=[3, 12], batch_size=2, progress=False)
    untouched = share_right(model, cases, lambda _: [])
    assert found.accuracy == pytest.approx(untouched) and untouched == pytest.approx(5 / 6)
    assert found.head_accuracy == pytest.approx(share_right(model, cases, lambda _: [HEAD]))
    everything = [("mlp", layer, i) for layer in layers for i in range(80)]
    for row in found.frame.to_dict("records"):
        k = row["k"]
        top = {case: best(measured[case][0], k) for case in cases}
        masked = share_right(model, cases, lambda case, top=top: top[case])
        kept = share_right(model, cases, lambda case, top=top: [n for n in everything if n not in top[case]])
        assert row["mask"] == pytest.approx(1 - masked / untouched)
        assert row["keep"] == pytest.approx(1 - kept / untouched)
        lost = []
        for case in cases:
            _, before, after = measured[case]
            pairs = [(float(before[la, i]), float(after[la, i])) for _, la, i in top[case]]
            lost.append(sum(b - a if b > 0 else a - b for b, a in pairs) / sum(abs(b) for b, _ in pairs))
        assert row["coef"] == pytest.approx(sum(lost) / len(lost), abs=1e-5)
    assert "top 12" in str(found) and "6 cases, accuracy 83.3 %" in str(found)


def test_random_neurons_are_active_deep_and_the_same_in_any_batch(monkeypatch):
    model = architectures.build("llama", dtype=torch.float32)
    ablated = []

    def spy(model, parts, **options):
        ablated.append(parts)
        return tna.ablate(model, parts, **options)

    monkeypatch.setattr(import_module("tl_neuron_attr.cna.feature_predicting"), "ablate", spy)
    tables = []
    for batch_size in (1, 6):
        ablated.clear()
        tables.append(cna.mask_keep_coef(model, said(model), HEAD, ks=[4], batch_size=batch_size, progress=False).frame)
        drawn = ablated[2::3]  # head, mask, random
        assert all(int(parts.layer.min()) >= 1 and len(parts) == 4 for parts in drawn)
    assert tables[0]["random"].tolist() == tables[1]["random"].tolist()
    assert tables[0]["coef"].tolist() == pytest.approx(tables[1]["coef"].tolist(), abs=1e-5)


def test_coefficients_count_along_their_own_sign():
    before = torch.tensor([[4.0, -2.0, 0.0], [0.0, 0.0, 0.0]])
    after = torch.tensor([[1.0, -2.0, 7.0], [1.0, 0.0, 0.0]])
    assert coefficient_drop(before, after).tolist() == [0.5, 0.0]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_head_that_costs_most_and_the_neurons_it_switched_on(name):
    model = architectures.build(name)
    case = said(model)[0]
    tokens = torch.tensor([case.tokens])
    found = cna.feature_predicting(model, tokens, case.answer, k=9)
    whole = tna.head_effects(model, tokens, case.answer, progress=False)
    assert whole.log_prob[0].flatten().argmin() == found.head[0] * 4 + found.head[1]
    assert float(found.left) == pytest.approx(float(whole.prob[0][found.head]))
    change = changes(model, case, [found.head])[0]
    assert [
        ("mlp", la, i) for la, i in zip(found.neurons.layer.tolist(), found.neurons.index.tolist(), strict=True)
    ] == (best(change, 9))
    torch.testing.assert_close(found.neurons.score, change.flatten().topk(9).values, atol=1e-6, rtol=0)
    assert f"L{found.head[0]}H{found.head[1]} zeroed" in str(found) and len(found.table().rows) == 9
    chosen = cna.feature_predicting(model, tokens[0], case.answer, head=(0, 1), k=2)
    assert chosen.head == (0, 1) and float(chosen.left) == pytest.approx(float(whole.prob[0, 0, 1]))


def test_bad_input_is_named():
    model = architectures.build("gpt2")
    cases = said(model)
    with pytest.raises(ValueError, match="tokens hold 2 prompts"):
        cna.feature_predicting(model, architectures.prompts(), 5)
    with pytest.raises(IndexError, match=r"head of .* must lie between 0 and 3"):
        cna.mask_keep_coef(model, cases, (1, 4))
    with pytest.raises(IndexError, match="layers must lie between 0 and 2, got 3"):
        cna.mask_keep_coef(model, cases, HEAD, layers=[3])
    with pytest.raises(ValueError, match="k must be between 1 and the 160 mlp neurons, got 161"):
        cna.mask_keep_coef(model, cases, HEAD, ks=[161], progress=False)
    with pytest.raises(ValueError, match="cases is empty"):
        cna.mask_keep_coef(model, [], HEAD)
    with pytest.raises(ValueError, match="the untouched model answers none of them"):
        cna.mask_keep_coef(model, [cases[1]], HEAD, ks=[2], progress=False)


def test_layers_and_contrast_choose_the_neurons():
    model = architectures.build("llama")
    case = said(model)[0]
    tokens = torch.tensor([case.tokens])
    _, cache = model.run_with_cache(tokens)
    with tna.ablate(model, [HEAD]):
        _, other = model.run_with_cache(tokens)
    expected = cna.changed_neurons(cache, other, case.answer, 6, layers=[2], contrast=7)[0]
    found = cna.feature_predicting(model, tokens, case.answer, head=HEAD, k=6, layers=[2], contrast=7)
    assert found.neurons.labels == expected.labels
    after = [float(other["blocks.2.mlp.hook_post"][0, -1, i]) for i in expected.index.tolist()]
    assert found.other_coefficient.tolist() == pytest.approx(after)
    assert found.neurons.labels != cna.feature_predicting(model, tokens, case.answer, head=HEAD, k=6).neurons.labels
    assert found.top(2).neurons.labels == expected.labels[:2] and len(found.top(2).other_coefficient) == 2
    cases = [case]
    row = cna.mask_keep_coef(model, cases, HEAD, ks=[6], layers=[2], contrast=7, progress=False).frame.iloc[0]
    drop = coefficient_drop(found.neurons.coefficient, found.other_coefficient)
    assert row["coef"] == pytest.approx(float(drop), abs=1e-6)
    with pytest.raises(ValueError, match="contrast must hold one token per prompt: 1 prompt, got 2"):
        cna.mask_keep_coef(model, cases, HEAD, ks=[2], contrast=[7, 8], progress=False)
